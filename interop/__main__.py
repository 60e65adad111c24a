"""Prove the sinks against real receivers: ``python -m interop opensearch``."""

import argparse
import asyncio
import sys

from interop.cluster import Cluster, prove
from interop.findings import Findings
from interop.receiver import Missing, Receiver


def main() -> int:
    """Run what was asked for; return 0 if all held, 1 if something did not, 2 if it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m interop", description=__doc__)
    parser.add_argument("receiver", choices=["opensearch", "elasticsearch"])
    arguments = parser.parse_args()
    findings = Findings()
    try:
        with Receiver(arguments.receiver) as receiver:
            cluster = Cluster(receiver.url, arguments.receiver, receiver.identity)
            asyncio.run(prove(cluster, findings))
            cluster.close()
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    print(f"{findings.held} held, {len(findings.failed)} did not")
    return 1 if findings.failed else 0


if __name__ == "__main__":
    sys.exit(main())
