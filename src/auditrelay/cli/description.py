"""``auditrelay description``: the audit-log APIs that are described in files."""

import json
import textwrap
from typing import Annotated, Any

import typer
from rich.console import Console

from auditrelay.descriptions import FOLDER, shipped
from auditrelay.descriptions.load import named
from auditrelay.descriptions.schema import json_schema
from auditrelay.errors import ConfigError
from auditrelay.settings.wording import suggestion

description = typer.Typer(
    help="The audit-log APIs that are described in files.", no_args_is_help=True
)


@description.command("list")
def list_(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the descriptions that come with auditrelay, and what each needs."""
    rows: list[dict[str, Any]] = [
        {
            "type": name,
            "product": file.product,
            "feeds": list(file.feeds),
            "needs": list(file.needs),
            "evidence": file.evidence,
            "checked": file.checked.isoformat(),
        }
        for name in shipped()
        if (file := named(name).file)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = Console().width
    for row in rows:
        typer.echo(f"{row['type']}: {row['product']}")
        feeds = [f"feeds: {', '.join(row['feeds'])}"] if row["feeds"] else []
        for text in (*feeds, *row["needs"]):
            typer.echo(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    "))


@description.command()
def show(
    name: Annotated[str, typer.Argument(help="A type that `description list` shows.")],
) -> None:
    """Print a description that comes with auditrelay."""
    if name not in shipped():
        raise ConfigError(
            f"no description {name!r} comes with auditrelay"
            f"{suggestion(name, shipped()) or ': see `auditrelay description list`'}"
        )
    typer.echo((FOLDER / f"{name}.toml").read_text("utf-8"), nl=False)


@description.command()
def schema() -> None:
    """Print the JSON Schema of a description file."""
    typer.echo(json.dumps(json_schema(), indent=2))
