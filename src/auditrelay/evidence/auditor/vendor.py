"""What a vendor shows an auditor, by ``verify --list``, compared with what was covered."""

import json
from bisect import bisect
from hashlib import sha256
from pathlib import Path

from . import allowances
from .checker import Stop, iso
from .replay import Replay
from .uids import Accepted, compared


def compare_vendor(path: Path, accepted: list[Accepted] | None, replay: Replay) -> None:
    """Compare what a vendor shows with what was covered; None: the export has not all uids."""
    asked, *rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    unit = replay.units.get(f"source {asked['source']}")
    if unit is None:
        raise Stop("nothing", f"{path.name} is of {asked['source']}, which is not in this export")
    name = unit.name
    mine = [each for each in accepted or () if each.source == asked["source"]]
    digests, records = {bytes.fromhex(row["uid"]): row["raw_sha256"] for row in rows}, 0
    for each, is_changed in compared(mine, digests):
        records += each.fact["events"]
        if is_changed:
            what = f"{name} shows another record than was accepted"
            replay.report.say("bad", "vendor", what, each.n)
    place_of = {key[8:]: place for each in reversed(mine) for place, key in each.events()}
    keys = sorted(key_of(row["time"], bytes.fromhex(row["uid"])) for row in rows)
    removed, spans = allowances.uncounted(replay.journal, name), 0
    for entry, fact in replay.journal.facts["covered"]:
        inside = asked["from"] <= fact["start"] and fact["end"] <= asked["to"]
        if entry["unit"] != name or not inside or id(fact) in removed:
            continue
        spans += 1
        start, end = (bisect(keys, key_of(fact[each])) for each in ("start", "end"))
        shown = [key for key in keys[start:end] if place_of.get(key[8:], 0) < fact["before"]]
        if sha256(b"".join(shown)).hexdigest() != fact["uids"]:
            what = f"{name} shows {len(shown)} events from {iso(fact['start'])} on"
            more = len(shown) - fact["events"]
            fair = allowances.is_fair(replay.journal, unit, fact, more, listed=accepted is not None)
            replay.report.say(
                "note" if fair else "bad", "vendor", f"{what}, not {fact['events']}", entry["n"]
            )
    if not spans:
        what = f"no span that {name} has covered lies whole within {path.name}"
        raise Stop("nothing", f"{what}: {iso(asked['from'])} to {iso(asked['to'])}")
    replay.report.lines.append(f"vendor     {name}: {spans} spans and {records} records compared")


def key_of(at: int, uid: bytes = b"") -> bytes:
    """Return the key of an event: its time, so that keys sort by it, and its uid."""
    return (at + 2**63).to_bytes(8, "big") + uid
