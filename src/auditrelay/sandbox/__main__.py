"""
All doubles in one process, to try the daemon by hand or under load.

::

    python -m auditrelay.sandbox --events 100000 --record-bytes 700 --span 1h --lean

It prints one line of JSON with the addresses and credentials, and on SIGTERM, SIGINT, or when a
pipe on its standard input closes, one with the totals: what was generated, what each intake stored,
what is lost (by the vendor's id) and what is repeated (by uid).
"""

import argparse
import asyncio
import json
import os
import re
import signal
import stat
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from auditrelay.sandbox import (
    Intake,
    Sandbox,
    Vendor,
    available_vendors,
    faults,
    receivers,
    siems,
    vendors,
)
from auditrelay.sandbox.described import Described
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.stored import Stored

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHOWN = 20


def main() -> None:
    """Parse the command line and serve until a signal or end of input."""
    asyncio.run(_serve(_arguments()))


def _arguments() -> argparse.Namespace:
    intakes = [each for each in siems.available().values() if not each.ON_REQUEST]
    more = [kind for kind, each in siems.available().items() if each.ON_REQUEST]
    parser = argparse.ArgumentParser(
        prog="python -m auditrelay.sandbox", description="Serve the doubles on loopback."
    )
    parser.add_argument("--events", type=int, default=100, help="records of each vendor")
    parser.add_argument(
        "--vendor",
        choices=available_vendors(),
        metavar="NAME",
        action="append",
        help="a vendor that has records; repeatable; default: all that have a module. One that is "
        "described in a file is there only if it is named",
    )
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="PAGE",
        help="a reply, as JSON, whose records are repeated by the described vendors",
    )
    parser.add_argument(
        "--record-bytes",
        "--page-records-bytes",
        type=int,
        default=0,
        help="approximate length of a record; 0: natural and varied records",
    )
    parser.add_argument(
        "--span",
        type=_duration,
        default=timedelta(hours=1),
        help="time range of the records, e.g. 1h",
    )
    parser.add_argument(
        "--until", type=_duration, default=timedelta(), help="age of the newest record"
    )
    parser.add_argument(
        "--page-cap", type=int, default=0, help="largest page, instead of the vendor's"
    )
    parser.add_argument(
        "--delay",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="delay of each answer of a vendor",
    )
    flavours = [name for intake in intakes for name in intake.FLAVOURS]
    parser.add_argument("--flavour", choices=flavours, default="elasticsearch")
    parser.add_argument(
        "--siem",
        type=_intake,
        metavar="NAME|FILE",
        action="append",
        default=[],
        help="an intake that is there only if it is named; repeatable: "
        f"{', '.join((*more, *receivers.available()))}, or the file that describes a receiver",
    )
    parser.add_argument(
        "--first-port",
        type=int,
        default=0,
        help="listen on this and the following ports: "
        f"{', '.join(intake.NAME for intake in intakes)}, then the vendors",
    )
    parser.add_argument(
        "--lean",
        action="store_true",
        help="intakes only decompress and count ids: no checks, no stored events",
    )
    return parser.parse_args()


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: write a number and s, m, h or d, like 1h")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _intake(text: str) -> str:
    if text not in {*siems.available(), *receivers.available()} and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: no such intake, and no such file")
    return text


async def _serve(arguments: argparse.Namespace) -> None:
    sandbox = Sandbox(
        flavour=arguments.flavour,
        only=[*vendors.available(), *(arguments.vendor or ())],
        also=arguments.siem,
    )
    for vendor in sandbox.vendors.values() if arguments.sample else ():
        if isinstance(vendor, Described):
            vendor.sample(json.loads(arguments.sample.read_text("utf-8")))
    if arguments.first_port:
        doubles = (*sandbox.siems.values(), *sandbox.vendors.values())
        for port, double in enumerate(doubles, arguments.first_port):
            double.port = port
    _fill(sandbox, arguments)
    for intake in sandbox.siems.values():
        intake.lean = arguments.lean
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with sandbox:
        _print_json(_addresses(sandbox))
        if _is_pipe(sys.stdin.fileno()):
            loop.add_reader(sys.stdin.fileno(), _stop_at_eof, loop, stopping)
        await stopping.wait()
    _print_json(_report(sandbox, lean=arguments.lean))


def _vendors_to_fill(sandbox: Sandbox, arguments: argparse.Namespace) -> dict[str, Vendor]:
    """Return the vendors that get records."""
    chosen = arguments.vendor or list(sandbox.vendors)
    return {
        name: vendor
        for name, vendor in sandbox.vendors.items()
        if name in chosen or name not in vendors.available()
    }


def _fill(sandbox: Sandbox, arguments: argparse.Namespace) -> None:
    end = datetime.fromtimestamp(time.time(), UTC) - arguments.until
    start, count, size = end - arguments.span, arguments.events, arguments.record_bytes
    for vendor in _vendors_to_fill(sandbox, arguments).values():
        if arguments.page_cap:
            vendor.switches.page_size_cap = arguments.page_cap
        if arguments.delay:
            vendor.faults.add(faults.delay(arguments.delay), times=None)
        if size:
            vendor.load(count, start, end, size)
        else:
            vendor.fill(count, start, end)


def _addresses(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    return {
        **{
            name: {"url": vendor.url, **vendor.settings()}
            for name, vendor in sandbox.vendors.items()
        },
        **{
            name: {
                "url": intake.url,
                **_settings_of(intake),
            }
            for name, intake in sandbox.siems.items()
        },
    }


def _settings_of(intake: Intake) -> dict[str, Any]:
    """Return the credentials of *intake*, or if it was asked for, all settings of a sink for it."""
    asked_for = isinstance(intake, Receiver) or intake.ON_REQUEST
    return intake.settings() if asked_for else intake.credentials()


def _report(sandbox: Sandbox, *, lean: bool) -> dict[str, Any]:
    made = {name: set(vendor.known_ids()) for name, vendor in sandbox.vendors.items()}
    compared = {
        name: ids
        for name, ids in made.items()
        # A lean intake does not look into events for what a described one is known by.
        if sandbox.vendors[name].ID_FIELDS or not lean
    }
    return {
        "made": {
            name: {
                "events": len(made[name]),
                "requests": vendor.requests,
                "served": vendor.served,
            }
            for name, vendor in sandbox.vendors.items()
        },
        "stored": {
            name: {**_compare(intake.stored, compared), "requests": intake.requests}
            for name, intake in sandbox.siems.items()
        },
        "not_indexed": {
            name: _compare(intake.not_indexed, {})
            for name, intake in sandbox.siems.items()
            if intake.not_indexed is not None
        },
    }


def _compare(stored: Stored, made: dict[str, set[str]]) -> dict[str, Any]:
    repeated = stored.repeated()
    lost = {name: stored.lost(ids) for name, ids in made.items()}
    known: set[str] = set().union(*made.values())
    return {
        "events": stored.total,
        "uids": len(stored.by_uid.keys() - stored.head_uids),
        "lost": {name: len(ids) for name, ids in lost.items()},
        "lost_ids": {name: sorted(ids)[:_SHOWN] for name, ids in lost.items() if ids},
        "repeated": sum(repeated.values()) - len(repeated),
        "repeated_uids": list(repeated)[:_SHOWN],
        "unknown": len(stored.by_native_id.keys() - known) if made else 0,
    }


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _stop_at_eof(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        stopping.set()


if __name__ == "__main__":
    main()
