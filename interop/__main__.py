"""Prove the sinks against real receivers: ``python -m interop opensearch``."""

import argparse
import asyncio
import sys

from auditrelay.sandbox.elastic import Elastic
from interop import datadog
from interop.answers import compare
from interop.cluster import Cluster, prove
from interop.findings import Findings
from interop.receiver import Missing, Receiver


def main() -> int:
    """Run what was asked for; return 0 if all held, 1 if something did not, 2 if it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m interop", description=__doc__)
    parser.add_argument("receiver", choices=["opensearch", "elasticsearch", "datadog"])
    arguments = parser.parse_args()
    findings = Findings()
    try:
        if arguments.receiver == "datadog":
            asyncio.run(datadog.prove(findings))
        else:
            with Receiver(arguments.receiver) as receiver:
                cluster = Cluster(receiver.url, arguments.receiver, receiver.identity)
                asyncio.run(_cluster(cluster, findings))
                cluster.close()
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    print(f"{findings.held} held, {len(findings.failed)} did not")
    return 1 if findings.failed else 0


async def _cluster(cluster: Cluster, findings: Findings) -> None:
    await prove(cluster, findings)
    async with Elastic(flavour=cluster.flavour) as double:
        await compare(cluster.url, cluster.identity, double, findings)


if __name__ == "__main__":
    sys.exit(main())
