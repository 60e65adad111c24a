"""``auditrelay schema``: the keys of the configuration file, for editors and checkers."""

import json

import typer

from auditrelay.config.schema import json_schema


def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    typer.echo(json.dumps(json_schema(), indent=2))
