"""The auditor's program: all checks together, the command line, and the report in words."""

import argparse
import gc
import json
import re
import sys
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from . import checker, comparison, siem, signatures, uids, vendor
from .checker import Head, Journal, Report, Step, heads_in, iso, journal_in
from .proof import check_proof
from .replay import Replay
from .uids import Accepted

READ = "read the log of that time; add --siem, --vendor"
WHO = checker.DO["head_foreign"]
WHOSE = "ask for the public key of that time, and who may write to the SIEM"
DO = checker.DO | (
    dict.fromkeys(("hole", "spool", "position", "letters", "state", "known"), READ)
    | dict.fromkeys(("head_absent", "not_in_siem", "only_in_siem", "changed_in_siem"), WHO)
    | dict.fromkeys(("unsigned", "key"), WHOSE)
    | {"vendor": checker.DO["nothing"]}
)
"""What to do about a finding, by its code."""


@dataclass
class Comparisons:
    """What is compared beside the main claim, with these files."""

    older: Path | None
    witness: list[Path]
    pins: list[bytes]
    siems: dict[str, Path]
    vendors: list[Path]
    absent: int = 0  # heads that a file lacks
    proved: int = 0  # so many entries are as they were when the newest head that fits was made
    mine: list[Accepted] | None = None  # with all uids
    theirs: list[Accepted] | None = None  # the same of the older export

    def compare(self, given: list[Head], journal: Journal, report: Report) -> None:
        """Compare the heads, the entries, and what others have."""
        report.attempt(None, signatures.judge, given, journal, report, self.pins)
        folder = journal.path.parent
        attempt(report, folder / "manifest.json", compare_manifest, folder, report)
        self.proved = max((head.size for head in given if head.state == "fit"), default=0)
        replay = Replay(journal, report)
        older = self.replay_older(given, journal, report)
        for path in self.witness:
            report.attempt(None, self.compare_heads, path, given, replay)
        if replay.whole:
            report.attempt(None, replay.say_units)
            listed = attempt(report, folder / "uids.ndjson", self.read_uids, journal)
            both = self.mine, self.theirs
            report.attempt(None, comparison.compare_left, given, replay, older, *both)
            if listed:
                self.compare_uids(given, replay)

    def compare_heads(self, path: Path, given: list[Head], replay: Replay) -> None:
        """Compare the heads in a file with those that were made."""
        heads = [head for head in given if head.file == path]
        self.absent += comparison.compare_witness(path, heads, replay)

    def read_uids(self, journal: Journal) -> None:
        """Read what was accepted, with all uids if they are there."""
        self.mine = uids.accepted_in(journal)

    def read_older(self, older: Journal) -> None:
        """Read the same of the older export."""
        self.theirs = uids.accepted_in(older)

    def replay_older(self, given: list[Head], journal: Journal, report: Report) -> Replay | None:
        """Check the older export and compare it with the newer one, if there is one."""
        if self.older is None:
            return None
        file, apart = journal_in(self.older), Report()
        if file is None:
            report.say(
                "bad", "nothing", "there is no journal.ndjson with an entry in the older export"
            )
            return None
        older = Replay(Journal(file, apart), apart)
        if older.whole:
            attempt(apart, self.older / "uids.ndjson", self.read_older, older.journal)
        for each in apart.findings:
            if each["level"] == "bad":
                report.findings.append({**each, "what": f"the older export: {each['what']}"})
        report.attempt(None, comparison.compare_older, older.journal, journal, given, report)
        return older

    def compare_uids(self, given: list[Head], replay: Replay) -> None:
        """Compare the uids of the export with its entries, with SIEMs and with vendors."""
        report, accepted = replay.report, self.mine
        for name, file in self.siems.items():
            if accepted is not None and f"sink {name}" in replay.units:
                step = siem.compare_siem
                attempt(report, file, step, name, file, given, accepted, replay)
            else:
                what = f"{name} is no sink of this export, or it has not all uids"
                report.say("bad", "nothing", what)
        for file in self.vendors:
            attempt(report, file, vendor.compare_vendor, file, accepted, replay)


def attempt(report: Report, file: Path, step: Step, *given: Any) -> bool:
    """Take a step; a fault in the *file* that it reads becomes a finding, which names it."""
    whole = report.attempt(None, step, *given)
    if not whole:
        report.findings[-1]["where"] = file.name
    return whole


def compare_manifest(folder: Path, report: Report) -> None:
    """Say which files of an export are not those that were exported."""
    if (file := folder / "manifest.json").exists():
        for name, digest in json.loads(file.read_bytes())["sha256"].items():
            part, found = folder / name, None
            if name == part.name and part.is_file():  # and not /dev/zero
                with part.open("rb") as opened:
                    found = file_digest(opened, "sha256").hexdigest()
            if found != digest:
                what = f"{name} is missing, or is not the one that manifest.json tells of"
                report.say("bad", "form", what, where=name)


def check(
    paths: list[Path],
    witness: list[Path],
    pins: list[bytes],
    siems: dict[str, Path],
    vendors: list[Path],
) -> dict[str, Any]:
    """Check an export, an older and a newer one, or a proof; return the report."""
    if paths[0].suffix == ".json":
        report, given = Report(), [head for file in witness for head in heads_in(file)]
        attempt(report, paths[0], check_proof, paths[0], given, report, pins, siems)
        return finished(checker.result_of(report, given), 0, 0)
    *older, newer = paths
    others = Comparisons(next(iter(older), None), witness, pins, siems, vendors)
    return finished(checker.check(newer, witness, others.compare), others.absent, others.proved)


def finished(result: dict[str, Any], absent: int, proved: int) -> dict[str, Any]:
    """Return a report with what to do about its findings, and how much heads have *proved*."""
    result["proved"] = proved
    for each in result["findings"]:
        each["do"] = DO.get(each["code"]) if each["level"] == "bad" else None
    result["heads"]["absent"] = absent
    return result


def in_words(result: dict[str, Any]) -> str:
    """Return a report as an auditor reads it."""
    lines = [*result["lines"]]
    if result["log"]:
        until = f"until {iso(result['until'])}, {result['entries']} entries"
        lines.insert(0, f"log        {result['log']}, {until}")
    for each in result["findings"]:
        where = each["where"] or f"entry {each['entry']}" * (each["entry"] is not None)
        level = "BAD " if each["level"] == "bad" else "note"
        what = (each["what"] + f" ({where})" * bool(where)).replace("\n", "\n     ")
        lines.append(f"{level} {each['code']}: {what}")
        lines += [f"     do: {each['do']}"] * bool(each["do"])
    end = f"nothing before entry {result['proved']} was changed or removed. After it nothing is "
    end = f"{end}proved yet." if result["proved"] else "the export fits itself. No head proves it."
    end = end if result["log"] else "the proof fits the head that it leads to."
    return "\n".join([*lines, f"whole: {end}" if result["whole"] else "not whole"])


def siems_of(texts: list[str]) -> dict[str, Path]:
    """Return by name the files of some SINK=FILE; raise ValueError if they are not that."""
    files: dict[str, Path] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not file or name in files:
            raise ValueError(f"--siem {text}: give SINK=FILE, one file for each sink")
        files[name] = Path(file)
    return files


def must_be_from_outside(witness: list[Path], exports: list[Path]) -> None:
    """Raise ValueError if a file of heads is one of an export's own."""
    own = {path / name for path in exports for name in ("heads.txt", "manifest.json")}
    if {path.resolve() for path in own} & {path.resolve() for path in witness}:
        raise ValueError("heads that prove an export come from outside, not from its own files")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0: whole, 1: not, or nothing is there, 2: wrong usage."""
    parser = argparse.ArgumentParser("auditrelay evidence check", description="Check evidence.")
    parser.add_argument("paths", nargs="+", type=Path, help="an export, two, or a proof.json")
    parser.add_argument("--witness", action="append", default=[], type=Path, help="has heads")
    parser.add_argument("--key", action="append", default=[], type=Path, help="a public key")
    parser.add_argument("--siem", action="append", default=[], help="SINK=FILE, what a SIEM has")
    parser.add_argument("--vendor", action="append", default=[], type=Path, help="by verify --list")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    asked = parser.parse_args(argv)
    proofs = [path for path in asked.paths if path.suffix == ".json"]
    if len(asked.paths) > (1 if proofs else 2):
        return refused("give one export, an older and a newer one, or a proof")
    if proofs and asked.vendor:
        return refused("--vendor goes with an export, and not with a proof")
    gc.disable()  # almost all that is read is kept to the end
    try:
        must_be_from_outside(asked.witness, asked.paths)
        pins = [signatures.pin_in(file) for file in asked.key]
        siems = siems_of(asked.siem)
        result = check(asked.paths, asked.witness, pins, siems, asked.vendor)
    except IsADirectoryError as error:
        return refused(
            f"{error.filename} is a directory: give a file in it; heads come from a SIEM"
        )
    except (OSError, ValueError, RuntimeError) as error:  # the last one: links in a circle
        return refused(re.sub(r"\[Errno \d+\] ", "", str(error)))
    words = in_words(result)
    del result["lines"]
    text = json.dumps(result, indent=2) if asked.json else words
    sys.stdout.write(re.sub(r"[^\n -~]", "?", text) + "\n")  # no sequences that move a cursor
    return 0 if result["whole"] else 1


def refused(why: str) -> int:
    """Say why nothing can be checked; return the exit status."""
    sys.stderr.write(f"auditrelay evidence check: {why}\n")
    return 2


def command() -> None:
    """Run the command where auditrelay is not installed."""
    raise SystemExit(main())
