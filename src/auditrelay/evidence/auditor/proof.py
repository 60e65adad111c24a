"""
The proof of one event: when it was accepted, and when each sink took it.

It is one file of auditrelay evidence prove: the entries, the uids of one page, and for each line of
an entry the path to a head. If this head is outside, in a SIEM, no export is needed.

A sink's position also passes what it does not get. So its entry must say as well that it was fed
from the source at that place. What was pruned while it was not configured only an export shows.
"""

import base64
import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from .checker import Entry, Fact, Head, Report, Stop, entry_of, heads_in, iso, node
from .replay import EVER
from .siem import records_in
from .signatures import id_of, is_signed, signature_of
from .uids import chain


def root_by_path(leaf: bytes, n: int, size: int, path: list[str]) -> bytes:
    """Return the root over *size* leaves to which *path* leads; ValueError or IndexError."""
    if (n, size, path) == (0, 1, []):
        return leaf
    half, other = 1 << (size - 1).bit_length() - 1, bytes.fromhex(path[-1])
    if n < half:
        return node(root_by_path(leaf, n, half, path[:-1]), other)
    return node(other, root_by_path(leaf, n - half, size - half, path[:-1]))


def proved(head: Head, each: Any, unit: str) -> Entry:
    """Return an entry of a proof, which must lead to the head; ValueError if it does not."""
    entry, leaf = entry_of(f"{each['line']}\n".encode()), b"\0" + each["line"].encode()
    root = root_by_path(sha256(leaf).digest(), each["n"], head.size, each["path"])
    if root.hex() != head.root or entry["unit"] != unit:
        raise ValueError("the entry is of another head or unit")
    return entry


def entry_of_sink(head: Head, each: Any, unit: str) -> tuple[Entry, list[Fact]]:
    """Return the last line of a sink's entry, with its state, and the facts of all its lines."""
    lines = [proved(head, line, unit) for line in [*each.get("more", ()), each]]
    first, last = lines[0], lines[-1]
    follow = all(a["seq"] + 1 == b["seq"] and a["at"] == b["at"] for a, b in pairwise(lines))
    # A further line has the time of the line before it, unless that ends an entry of that time.
    begins = first["since"] != first["at"] or (first is not last and first["state"] is not None)
    if not (follow and begins and last["state"]):
        raise Stop("form", f"the proof has not all lines of an entry of {unit}")
    return last, [fact for line in lines for fact in line["facts"]]


def judge_head(head: Head, given: list[Head], report: Report, pins: list[bytes]) -> None:
    """Say whether the head to which a proof leads is one of those *given*, and is signed."""
    if pins and head.key is None:
        report.say("bad", "unsigned", f"head {head.size}, where it leads, is not signed")
    elif pins and not any(head.key == id_of(p) and is_signed(p, *signature_of(head)) for p in pins):
        report.say("bad", "key", f"no key of yours has signed head {head.size}, where it leads")
    same = [each for each in given if (each.log, each.size) == (head.log, head.size)]
    for each in same:
        report.lines.append(f"head       {head.size} is in {each.where}")
        each.state = "fit" if each.root == head.root else "rewritten"
        if each.state == "rewritten":
            report.say("bad", "rewritten", f"head {head.size} has another root", where=each.where)
    if given and all(each.log != head.log for each in given):
        what = f"it leads to a head of log {head.log}, and no file has one of that log"
        report.say("bad", "head_foreign", what)
    elif not same:
        report.say("note", "no_witness", f"no file has head {head.size}, where it leads")


def excluding(facts: list[Fact], place: int) -> list[str]:
    """Return the globs for which a sink was not sent what is at a place, by the facts."""
    return [
        fact["glob"]
        for fact in facts
        if fact["fact"] == "excluded"
        and any(start <= place < start + count for start, count in fact["places"])
    ]


def check_proof(
    path: Path,
    given: list[Head],
    report: Report,
    pins: list[bytes],
    siems: dict[str, Path],
) -> None:
    """Check the proof that one event was accepted, which sinks took it, and what *siems* have."""
    (head,), proof = heads_in(path), json.loads(path.read_bytes())
    uid, page = proof["uid"], proof["page"]
    keys, after = base64.b64decode(page["keys"]), [bytes.fromhex(each) for each in page["after"]]
    index = [keys[i + 8 : i + 28].hex() for i in range(0, len(keys), 28)].index(uid)
    uids = chain([sha256(keys).digest(), *after], bytes.fromhex(page["d"]))
    entry = proved(head, proof["accepted"], f"source {proof['source']}")
    (fact,) = (f for f in entry["facts"] if f["fact"] == "accepted" and f["uids"] == uids)
    first, count = fact["pages"][-1 - len(after)]
    at = int.from_bytes(keys[28 * index : 28 * index + 8]) - 2**63
    place = first + index
    if 28 * count != len(keys) or proof["at"] not in {at, None}:
        raise ValueError("the page is another, or its time of the event")
    what = f"event      {uid} of {proof['source']}: accepted by {iso(entry['at'])}, {fact['via']}"
    report.lines.append(f"{what} (entry {entry['n']})")
    for name, each in sorted(proof["sinks"].items()):
        entry, facts = entry_of_sink(head, each, f"sink {name}")
        done = [pair for fact in facts for pair in fact.get("done", ())]
        if not any(start <= place < start + count for start, count in done):
            raise ValueError("the entry is of another event")
        if entry["state"]["since"].get(proof["source"], EVER) > place:
            raise Stop("form", f"the sink {name} did not get the source at place {place}")
        refused = any(uid in fact["each"] for fact in facts if fact["fact"] == "dead")
        globs = excluding(facts, place)
        did = f"{'refused' if refused else 'took'} it"
        if globs:
            did = f"was not sent it, as its exclude has {json.dumps(globs[0])}: settled"
        line = f"sink       {name} {did} by {iso(entry['at'])} (entry {entry['n']})"
        report.lines.append(line + "; if it has it: --siem" * (not siems and not globs))
        if name in siems and not (refused or globs):
            if bytes.fromhex(uid) in records_in(siems[name]):
                report.lines.append(f"siem       {name} has it")
            else:
                report.say("bad", "not_in_siem", f"{name} lacks {uid}", where=siems[name].name)
    for name in sorted(siems.keys() - proof["sinks"].keys()):
        report.say("bad", "nothing", f"the proof does not say that a sink {name} took the event")
    judge_head(head, given, report, pins)
