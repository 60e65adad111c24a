"""``python -m auditrelay``, and the ``auditrelay`` script."""

from auditrelay.process import begin


def main() -> None:
    """Begin the process, and only then import and run the command line."""
    begin()
    from auditrelay.cli import main as run  # noqa: PLC0415  # it takes half a second

    run()


if __name__ == "__main__":
    main()
