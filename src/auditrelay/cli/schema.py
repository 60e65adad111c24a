"""``auditrelay schema``: what the configuration file may hold, for editors and checkers."""

import json

import typer


def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    from auditrelay import config  # noqa: PLC0415  # see given

    typer.echo(json.dumps(config.json_schema(), indent=2))
