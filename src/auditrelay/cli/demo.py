"""``auditrelay demo``: the whole thing against the built-in sandbox."""


def demo() -> None:
    """Run the whole thing against the built-in sandbox; needs no credentials."""
