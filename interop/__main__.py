"""Test the sinks against third-party receivers: all, or the named ones."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from auditrelay.sandbox.siems.elasticsearch import Elastic
from interop import datadog, otlp, sentinel, versitygw, victorialogs
from interop.answers import compare
from interop.cluster import Cluster, Flavour, prove
from interop.findings import Findings
from interop.receiver import Missing, Receiver

_CLUSTERS: dict[str, Flavour] = {"opensearch": "opensearch", "elasticsearch": "elasticsearch"}
_OTHERS: dict[str, list[Callable[[Findings], Coroutine[Any, Any, None]]]] = {
    "datadog": [datadog.prove],
    "sentinel": [sentinel.prove],
    "versitygw": [versitygw.prove],
    "collector": [otlp.prove_collector],
    "victorialogs": [victorialogs.prove, otlp.prove_victorialogs],
}
_ALL = [*_CLUSTERS, *_OTHERS]


def main() -> int:
    """Run the named tests; return 0 if all passed, 1 if one failed, 2 if they cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m interop", description=__doc__)
    parser.add_argument("receivers", nargs="*", metavar="RECEIVER", help=", ".join(_ALL))
    names = parser.parse_args().receivers or _ALL
    for name in names:
        if name not in _ALL:
            parser.error(f"{name!r} is no receiver; there are: {', '.join(_ALL)}")
    findings = Findings()
    missing = False
    for name in names:
        print(f"== {name}")
        try:
            if name in _CLUSTERS:
                _cluster(_CLUSTERS[name], findings)
            else:
                for prove_it in _OTHERS[name]:
                    asyncio.run(prove_it(findings))
        except Missing as error:
            print(f"{name} cannot run here: {error}", file=sys.stderr)
            missing = True
    print(f"{findings.passed} passed, {len(findings.failed)} failed")
    if findings.failed:
        return 1
    return 2 if missing else 0


def _cluster(flavour: Flavour, findings: Findings) -> None:
    with Receiver(flavour) as receiver:
        cluster = Cluster(receiver.url, flavour, receiver.identity)
        asyncio.run(_prove(cluster, findings))
        cluster.close()


async def _prove(cluster: Cluster, findings: Findings) -> None:
    await prove(cluster, findings)
    async with Elastic(flavour=cluster.flavour) as double:
        await compare(cluster.url, cluster.identity, double, findings)


if __name__ == "__main__":
    sys.exit(main())
