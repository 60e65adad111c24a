"""``auditrelay store``: move the state of one instance into a database that replicas share."""

from typing import Annotated

import typer

from auditrelay import __version__
from auditrelay.cli.options import Options
from auditrelay.errors import ConfigError, StateError
from auditrelay.settings.secrets import SecretAddress
from auditrelay.store.postgres.address import check_address
from auditrelay.store.sqlite import state_dir

store = typer.Typer(help="Moves the state into a shared store.", no_args_is_help=True)


@store.callback()
def _group() -> None:
    """Keep ``copy`` a command of its own, though it is the only one."""


@store.command()
def copy(
    context: typer.Context,
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="The PostgreSQL, without a state yet.")
    ],
) -> None:
    """Copy the SQLite state of a stopped instance, all of it, into a PostgreSQL."""
    from auditrelay.service import shared  # noqa: PLC0415  # it imports psycopg

    options = Options.of(context)
    config = options.load(default_level="warning")
    if config.store is not None:
        raise ConfigError("store: the configuration names a shared store already; take it out")
    try:
        address = SecretAddress(to)
        check_address(address)
    except ValueError as error:
        raise ConfigError(f"--to: {error}") from error
    if not state_dir.is_there(config.state_dir):
        raise StateError(f"there is no state in {config.state_dir}")
    with state_dir.locked(config.state_dir, __version__, options.clock.now()):
        copied = shared.copy_into(config.state_dir, address, config.evidence.keys)
    typer.echo(
        f"Copied {copied['known']:,} known uids, {copied['entry']:,} entries of the evidence and "
        f"{copied['spool']:,} pages of the spool; coverage --check finds the same there as here."
    )
    typer.echo(
        f"Now set store in the configuration, and start. The state in {config.state_dir} is as it "
        "was, and is not used any more: keep it as a backup until all is well."
    )
