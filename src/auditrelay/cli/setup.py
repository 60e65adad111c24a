"""``auditrelay setup``: prepare a SIEM, or the shared store, for the first event."""

import asyncio
import contextlib
import json
from typing import Annotated, Any

import typer

from auditrelay.cli.options import Options
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError, Refused
from auditrelay.sinks.elasticsearch.cluster import Cluster
from auditrelay.sinks.elasticsearch.templates import COMPONENT, templates
from auditrelay.supervisor import Supervisor
from auditrelay.telemetry.metrics import Metrics

setup = typer.Typer(
    help="Prepares a SIEM for the events, or the shared store.", no_args_is_help=True
)

_PATTERN = "logs-auditrelay."
_RIGHTS = {
    False: "the cluster privilege manage_index_templates",
    True: "the permissions of the action group cluster_manage_index_templates",
}


@setup.command()
def elasticsearch(
    context: typer.Context,
    *,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the templates, and make no requests.")
    ] = False,
    opensearch: Annotated[
        bool, typer.Option("--opensearch", help="With --print: the form for OpenSearch.")
    ] = False,
    sink: Annotated[
        str | None, typer.Option(metavar="NAME", help="The sink, if there are several.")
    ] = None,
) -> None:
    """Install the templates that map the events, in Elasticsearch or OpenSearch."""
    if only_print:
        for path, body in templates(opensearch=opensearch).items():
            typer.echo(f"PUT {path}\n{json.dumps(body, indent=2)}\n")
        return
    if opensearch:
        raise ConfigError("--opensearch requires --print: a cluster reports its product itself")
    options = Options.of(context)
    config = options.load(default_level="error")
    name = _chosen(config, sink)
    settings: Any = config.sinks[name]
    for path in asyncio.run(_install(name, settings, options.clock)):
        typer.echo(f"{name}: {path} is installed")
    if not settings.index.startswith(_PATTERN):
        typer.echo(
            f"sinks.{name}.index is {settings.index}, which is no data stream {_PATTERN}*: name "
            f"{COMPONENT} under composed_of in the template of that index",
            err=True,
        )


_ROLE = "relay"
"""The role of the service, as the documentation calls it."""


@setup.command()
def postgres(
    context: typer.Context,
    *,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the SQL, and do not connect.")
    ] = False,
) -> None:
    """
    Make the tables of the shared store, in the PostgreSQL that the key store names.

    AUDITRELAY_STORE may name another role of it, which owns them.
    """
    config = Options.of(context).load(default_level="error")
    if config.store is None:
        raise ConfigError(
            "store: is missing, so there is no shared store to set up: SQLite in state_dir needs "
            "no setup"
        )
    # Only a shared store needs psycopg.
    from auditrelay.store.postgres.address import Address  # noqa: PLC0415
    from auditrelay.store.postgres.schema import statements  # noqa: PLC0415
    from auditrelay.store.postgres.setup import grants, set_up  # noqa: PLC0415

    address = Address(config.store)
    rights = grants(address.schema, _ROLE)
    if only_print:
        typer.echo(statements(address.schema))
        typer.echo(f"-- The role of the service, if it is not the owner:\n{rights}", nl=False)
        return
    if set_up(address):
        typer.echo(f"{address.safe}: the schema {address.schema} is made")
    else:
        typer.echo(f"{address.safe}: the schema {address.schema} is there, and of this version")
    typer.echo(
        f"\nThe role of the service, {_ROLE} here, needs this and no more:\n\n{rights}",
        nl=False,
    )


def _chosen(config: Config, wanted: str | None) -> str:
    """Return the name of the sink to set up; raise ConfigError unless exactly one fits."""
    names = [name for name, sink in config.sinks.items() if sink.type == "elasticsearch"]
    known = ", ".join(names) or "none"
    if wanted is not None and wanted not in names:
        raise ConfigError(f"--sink: {wanted!r} is no elasticsearch sink; there are: {known}")
    if wanted is None and len(names) != 1:
        hint = "choose one with --sink" if names else "there is none to set up"
        raise ConfigError(
            f"the configuration has {len(names)} elasticsearch sinks: {hint}; {known}"
        )
    return wanted or names[0]


async def _install(name: str, settings: Any, clock: Clock) -> list[str]:
    """Install the templates in the cluster of the sink; return their paths."""
    metrics = Metrics()
    with Supervisor(name, metrics)("setup"):
        return await _install_in(Cluster(name, settings, metrics, clock), name)


async def _install_in(cluster: Cluster, name: str) -> list[str]:
    async with contextlib.aclosing(cluster):
        opensearch = await cluster.is_opensearch()
        wanted = templates(opensearch=opensearch)
        for path, body in wanted.items():
            try:
                await cluster.put(path, body)
            except Refused as error:
                if error.status != 403:
                    raise
                raise Refused(
                    f"{error}; installing templates requires {_RIGHTS[opensearch]}, sending events "
                    f"does not: grant it to the key or user of sinks.{name} for this once, or let "
                    "an administrator install what --print prints",
                    status=error.status,
                ) from error
        return list(wanted)
