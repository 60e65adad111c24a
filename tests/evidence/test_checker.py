"""The checker: honest exports are whole, and each forgery is found, by its code and in words."""

import ast
import base64
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.exports import BEGIN, HOUR, Export, Fact, leaf, path, root, text
from tests.support.extent import extent

from auditrelay.evidence.auditor import checker, program, proof, replay, signatures
from auditrelay.store.sql import check_report

SOURCE = Path(checker.__file__)
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
OTHER_LOG = "9a02f1aa0a41b5d0cf6c6a5a5f3f3d11"


def honest(hours: int = 5, **more: Any) -> Export:
    export = Export(**more)
    for _ in range(hours):
        export.hour()
    return export


class Found:
    """What one run of the checker has found."""

    def __init__(self, status: int, out: str) -> None:
        self.status, self.report = status, json.loads(out)
        self.findings = self.report["findings"]
        self.bad = {each["code"] for each in self.findings if each["level"] == "bad"}
        self.notes = {each["code"] for each in self.findings if each["level"] == "note"}

    def what(self, code: str) -> str:
        return "\n".join(each["what"] for each in self.findings if each["code"] == code)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Found]:
    def run(*arguments: Any) -> Found:
        status = program.main([str(each) for each in arguments] + ["--json"])
        out = capsys.readouterr()
        assert not out.err
        return Found(status, out.out)

    return run


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def printed(*arguments: Any) -> str:
        program.main([str(each) for each in arguments])
        return capsys.readouterr().out

    return printed


# --- tree and signature ---------------------------------------------------------------------------


def test_every_tree_and_path_below_seventy_leaves(tmp_path: Path) -> None:
    lines = [str(number) for number in range(70)]
    leaves = [leaf(line.encode()) for line in lines]
    (tmp_path / "journal").write_text("\n".join(lines))
    journal = checker.Journal(tmp_path / "journal", checker.Report())
    assert journal.tree.rows[0] == leaves
    for size in range(70):
        assert journal.tree.root(size) == root(leaves[:size]).hex()
        for n in range(size):
            steps = [step.hex() for step in path(leaves[:size], n)]
            assert proof.root_by_path(leaves[n], n, size, steps) == root(leaves[:size])
            for wrong in (steps[:-1], [*steps, "00" * 32]):
                if wrong != steps:
                    with pytest.raises((ValueError, IndexError)):
                        proof.root_by_path(leaves[n], n, size, wrong)


def test_an_inner_node_is_no_leaf() -> None:
    leaves = [leaf(b"0"), leaf(b"1")]
    assert root([leaf(b"".join(leaves))]) != root(leaves)


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(0, 511))
def test_signatures_are_those_of_cryptography(secret: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(secret)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert signatures.is_signed(public, signature, message)
    assert not signatures.is_signed(public, signature, message + b".")
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not signatures.is_signed(public, bytes(flipped), message)


@pytest.mark.parametrize(
    "public",
    [bytes(32), b"\xff" * 32, (2).to_bytes(32, "little"), (2**255 - 19).to_bytes(32, "little")],
)
@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64])
def test_malformed_keys_and_signatures_are_refused(public: bytes, signature: bytes) -> None:
    assert not signatures.is_signed(public, signature, b"message")


def test_a_signature_has_one_spelling() -> None:
    private = Ed25519PrivateKey.from_private_bytes(KEY)
    signature = private.sign(b"message")
    larger = int.from_bytes(signature[32:], "little") + signatures.ORDER
    again = signature[:32] + larger.to_bytes(32, "little")
    assert not signatures.is_signed(private.public_key().public_bytes_raw(), again, b"message")


# --- the report -----------------------------------------------------------------------------------

REPORT = {"whole", "log", "entries", "until", "heads", "branches", "findings"}
"""The keys that all three have: evidence check, coverage --check, and the first file alone."""
FINDING = {"level", "code", "entry", "at", "where", "what", "do"}


def test_a_finding_says_when_where_what_and_what_to_do(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    export.hour(instance=[export.branch(OTHER_LOG), {"fact": "clock", "seconds": 90}])
    found = run(export.write(tmp_path / "x"))
    by_code = {each["code"]: each for each in found.findings}
    assert set(by_code) == {"branch", "clock", "no_witness"}
    assert all(set(each) == FINDING for each in found.findings)
    assert (by_code["branch"]["entry"], by_code["branch"]["at"]) == (6, BEGIN + 3 * HOUR)
    assert by_code["branch"]["do"] == program.DO["branch"]
    assert by_code["clock"]["at"] == BEGIN + 3 * HOUR
    assert by_code["no_witness"]["at"] is None
    assert {*found.report["branches"][0]} == {"fact", "log", "size", "root", "why", "n"}


# --- honest exports -------------------------------------------------------------------------------


def test_an_honest_export_is_whole(run: Any, tmp_path: Path) -> None:
    export = honest()
    found = run(export.write(tmp_path / "x"), "--witness", export.splunk(tmp_path / "splunk.csv"))
    assert (found.status, found.findings) == (0, [])
    report = found.report
    assert set(report) == REPORT | {"proved"}
    assert report["whole"] is True
    assert report["entries"] == 15
    assert report["until"] == BEGIN + 5 * HOUR
    assert report["heads"] == {"given": 5, "fit": 5, "absent": 0, "contradict": 0}


def test_what_is_printed_of_an_honest_export(printed: Any, tmp_path: Path) -> None:
    export = honest(key=KEY)
    export.write(tmp_path / "x")
    pin = tmp_path / "audit.pub"
    pin.write_bytes(base64.b64encode(export.public) + b"\n")
    witness = export.splunk(tmp_path / "splunk.csv")
    out = printed(tmp_path / "x", "--witness", witness, "--key", pin)
    assert "log        7346c9" in out
    assert "splunk.csv 5 of 5" in out
    assert "okta" in out
    assert out.endswith(
        "whole: nothing before entry 15 was changed or removed. After it nothing is proved yet.\n"
    )


def test_without_a_head_from_outside_it_says_so(run: Any, tmp_path: Path) -> None:
    found = run(honest().write(tmp_path / "x"))
    assert (found.status, found.notes) == (0, {"no_witness"})


def test_heads_are_found_in_any_file(run: Any, tmp_path: Path) -> None:
    export = honest()
    export.write(tmp_path / "x")
    elastic = [
        {"_id": "1", "_source": {"event": {"ingested": "2026-11-26T01:01:00Z"}, "message": head}}
        for head in export.heads
    ]
    files = {
        "elastic.ndjson": "".join(json.dumps(each) + "\n" for each in elastic),
        "mail.txt": "\r\n".join(f"> the head is {head}, he wrote" for head in export.heads),
        "bom.csv": "\ufeffa;b\n" + "\n".join(f"1;{head}" for head in export.heads),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        found = run(tmp_path / "x", "--witness", tmp_path / name)
        assert (found.report["heads"]["fit"], found.bad) == (5, set()), name


def test_one_head_of_long_ago_is_enough(run: Any, tmp_path: Path) -> None:
    export = honest()
    (tmp_path / "minutes").write_text(export.heads[1])
    found = run(export.write(tmp_path / "x"), "--witness", tmp_path / "minutes")
    assert (found.status, found.findings) == (0, [])


# --- edits ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_hours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, Path]:
    export, folder = honest(4), tmp_path_factory.mktemp("edited")
    export.write(folder / "x")
    export.splunk(folder / "splunk.csv")
    return export, folder


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), by=st.integers(1, 255))
def test_an_edit_is_found_for_every_head_behind_it_and_for_none_before(
    four_hours: tuple[Export, Path], where: float, by: int
) -> None:
    export, folder = four_hours
    content = bytearray(b"".join(line + b"\n" for line in export.lines))
    at = int(where * len(content))
    edited = content[:at].count(b"\n")
    content[at] = (content[at] + by) % 256
    (folder / "x" / "journal.ndjson").write_bytes(content)
    report = program.check([folder / "x"], [folder / "splunk.csv"], [], {}, [])
    behind = sum(int(head.split(".")[2]) > edited for head in export.heads)
    assert not report["whole"]
    assert report["heads"]["contradict"] == behind
    assert report["heads"]["fit"] == 4 - behind


def test_a_rewritten_entry(run: Any, printed: Any, tmp_path: Path) -> None:
    said = honest()
    export = Export()
    for hour in range(5):
        export.hour(2 if hour == 2 else 3)
    export.write(tmp_path / "x")
    witness = said.splunk(tmp_path / "splunk.csv")
    found = run(tmp_path / "x", "--witness", witness)
    assert found.bad == {"rewritten"}
    assert found.report["heads"] == {"given": 5, "fit": 2, "absent": 0, "contradict": 3}
    out = printed(tmp_path / "x", "--witness", witness)
    assert "BAD  rewritten: head 9 (splunk.csv line 4), 3 like it" in out
    assert "the newest head before it that fits is 6, of 2026-11-26T02:00:00Z" in out
    assert "do: keep" in out
    assert "auditrelay evidence check OLD NEW" in out


def edit(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    journal = folder / "journal.ndjson"
    journal.write_bytes(b"".join(change(journal.read_bytes().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda lines: lines[:4] + lines[5:], {"order", "rewritten", "cut"}),
        (lambda lines: lines[:-1], {"cut", "position"}),
        (lambda lines: lines[:-3], {"cut"}),
        (
            lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]],
            {"order", "rewritten", "fork"},
        ),
        (lambda lines: [*lines[:6], lines[3], *lines[6:]], {"order", "rewritten"}),
        (lambda lines: [*lines, b"{}"], {"form"}),
        (lambda lines: [b"\xef\xbb\xbf" + lines[0], *lines[1:]], {"form", "rewritten"}),
    ],
    ids=["missing", "last missing", "seal missing", "exchanged", "put in", "bytes behind", "BOM"],
)
def test_lines(change: Any, codes: set[str], run: Any, tmp_path: Path) -> None:
    export = honest()
    edit(export.write(tmp_path / "x"), change)
    (tmp_path / "x" / "uids.ndjson").unlink()
    found = run(tmp_path / "x", "--witness", export.splunk(tmp_path / "splunk.csv"))
    assert found.status == 1
    assert found.bad <= codes
    assert found.bad & codes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":2', b'"seq":2,"seq":2'),
        (b'"late":0', b'"late":0.0'),
        (b'"late":0', b'"late":0e0'),
        (b'"late":0', b'"late": 0'),
        (b'"via":"poll"', b'"via":"\\u0000"'),
        (b'"via":"poll"', b'"via":"\\u0070oll"'),
        (b'"via":"poll"', b'"via":"p\xc3\xb6ll"'),
        (b'"fact":"accepted"', b'"fact":"surrendered"'),
        (b'"fact":"accepted"', b'"fact":[]'),
        (b'"v":1', b'"v":2'),
        (b'"v":1', b'"v":true'),
        (b'"events":3', b'"events":"3"'),
        (b'"events":3', b'"events":null'),
        (b'"late":0', b'"late":NaN'),
        (b'"at":', b'"at":1' + b"0" * 5000),
        (b'"pages":[[4,3]]', b'"pages":[[4,3,1]]'),
        (b'"pages":[[4,3]]', b'"pages":[[4,3],[7,0]]'),
        (b'"pages":[[4,3]]', b'"pages":' + b"[" * 2000 + b"]" * 2000),
        (b'"facts":[', b'"fact":['),
        (b'"state":{', b'"extra":1,"state":{'),
        (b'"via":"poll"', b'"via":"' + b"x" * 60_000 + b'"'),
    ],
)
def test_what_is_spelled_otherwise_is_no_entry(
    old: bytes, new: bytes, run: Any, tmp_path: Path
) -> None:
    export = honest(3)
    line = export.lines[5]
    assert old in line
    export.lines[5] = line.replace(old, new, 1)
    found = run(export.write(tmp_path / "x"))
    assert found.status == 1
    assert "form" in found.bad
    assert "line 6 of" in found.what("form")


def test_a_newer_export_says_so(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    export.lines[0] = export.lines[0].replace(b'"v":1', b'"v":2')
    assert "newer" in run(export.write(tmp_path / "x")).what("form")


def test_an_export_without_its_last_seal(run: Any, tmp_path: Path) -> None:
    export = honest()
    export.pages.pop()
    edit(export.write(tmp_path / "x"), lambda lines: lines[:-3])
    (tmp_path / "x" / "heads.txt").write_text("\n".join(export.heads[:-1]))
    found = run(tmp_path / "x", "--witness", export.splunk(tmp_path / "splunk.csv"))
    assert found.bad == {"cut"}
    assert "head 15 " in found.what("cut")


def test_an_export_that_ends_within_an_entry_of_several_lines(run: Any, tmp_path: Path) -> None:
    def further(entry: dict[str, Any]) -> None:
        if entry["unit"] == "source okta":
            entry["state"] = None

    found = run(honest(2).hour(change=further).write(tmp_path / "x"))
    assert found.bad == {"order"}
    assert "source okta goes on in a line that is missing" in found.what("order")


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_nothing_to_check_is_not_whole(content: bytes | None, run: Any, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    if content is not None:
        (tmp_path / "x" / "journal.ndjson").write_bytes(content)
    found = run(tmp_path / "x")
    assert found.status == 1
    assert found.bad == ({"form"} if content else {"nothing"})


# --- heads ----------------------------------------------------------------------------------------


def test_a_head_that_is_absent(run: Any, tmp_path: Path) -> None:
    export = honest()
    heads = [head for head in export.heads if head != export.heads[2]]
    found = run(export.write(tmp_path / "x"), "--witness", export.splunk(tmp_path / "s.csv", heads))
    assert found.bad == {"head_absent"}
    assert found.report["heads"]["absent"] == 1
    assert "9" in found.what("head_absent")


FORGET: Fact = {"fact": "operator", "did": "forget", "by": None, "name": "splunk"}


@pytest.mark.parametrize(
    ("left", "taken_by", "excused"),
    [
        ({"fact": "retired", "place": 7}, [], {2, 3}),
        (FORGET, [], {1, 2, 3}),  # what it had not taken goes with it
        ({"fact": "retired", "place": 7}, ["splunk"], set()),
        ({"fact": "retired", "place": 7, "sources": ["okta"]}, [], set()),
    ],
)
def test_heads_that_were_made_while_a_sink_was_away(
    left: Fact, taken_by: list[str], excused: set[int], run: Any, tmp_path: Path
) -> None:
    def tell(entry: dict[str, Any]) -> None:
        for fact in entry["facts"]:
            if fact["fact"] == "head":
                fact["told"] = taken_by

    export = Export()
    back: Fact = {"fact": "back", "since": {"okta": 1}}
    for facts in ([], [], [left], [], [back], []):
        export.hour(sink=facts, change=tell)
    export.write(tmp_path / "x")
    for absent in (1, 2, 3, 4):
        heads = [head for head in export.heads if head != export.heads[absent]]
        found = run(tmp_path / "x", "--witness", export.splunk(tmp_path / "s.csv", heads))
        (level,) = (each["level"] for each in found.findings if each["code"] == "head_absent")
        assert (level == "note") is (absent in excused), absent


@pytest.mark.parametrize("edit", [{"told": 5}, {"told": [[]]}, {"size": None}])
def test_an_edited_fact_about_a_head_that_a_file_lacks(
    edit: Fact, run: Any, tmp_path: Path
) -> None:
    def change(entry: dict[str, Any]) -> None:
        for fact in entry["facts"]:
            if fact["fact"] == "head":
                fact.update(edit)
                if fact["size"] is None:
                    del fact["size"]

    export = honest(2).hour(change=change).hour().hour()
    witness = export.splunk(tmp_path / "s.csv", [*export.heads[:1], *export.heads[2:]])
    found = run(export.write(tmp_path / "x"), "--witness", witness)
    assert (found.status, "form" in found.bad) == (1, True)


def test_a_witness_without_heads(run: Any, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("_time,description\n")
    found = run(honest().write(tmp_path / "x"), "--witness", tmp_path / "s.csv")
    assert (found.status, found.bad) == (1, {"head_absent"})


def test_heads_of_another_instance(run: Any, tmp_path: Path) -> None:
    other = honest(2, log=OTHER_LOG).splunk(tmp_path / "s.csv")
    found = run(honest().write(tmp_path / "x"), "--witness", other)
    assert "head_foreign" in found.bad


def test_two_histories_of_one_log(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    copy = export.copy()
    for _ in range(2):
        copy.hour(salt="copy")
    for _ in range(3):
        export.hour()
    heads = [*export.heads, *copy.heads[3:]]
    witness = export.splunk(tmp_path / "s.csv", heads)
    found = run(export.write(tmp_path / "x"), "--witness", witness)
    assert found.bad == {"fork"}
    assert "12" in found.what("fork")
    export.hour(instance=[{"fact": "restored", "reason": "put back", "by": 0}])
    witness = export.splunk(tmp_path / "s.csv", [*export.heads, *copy.heads[3:]])
    found = run(export.write(tmp_path / "x"), "--witness", witness)
    assert (found.status, found.notes) == (0, {"fork"})
    assert "put back" in found.what("fork")


def test_a_file_that_is_not_the_one_that_was_exported(run: Any, tmp_path: Path) -> None:
    folder = honest(3).write(tmp_path / "x")
    witness = honest(3).splunk(tmp_path / "s.csv")
    digests = {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"v": 1, "sha256": digests}))
    assert run(folder, "--witness", witness).findings == []
    heads = (folder / "heads.txt").read_text().splitlines(keepends=True)
    (folder / "heads.txt").write_text("".join(heads[1:]))
    found = run(folder, "--witness", witness)
    assert (found.status, found.bad) == (1, {"form"})
    (folder / "heads.txt").unlink()
    assert run(folder, "--witness", witness).bad == {"form"}


@pytest.mark.parametrize("name", ["/dev/zero", "../s.csv", "."])
def test_a_manifest_names_files_of_its_export_alone(name: str, run: Any, tmp_path: Path) -> None:
    export = honest(2)
    witness = export.splunk(tmp_path / "s.csv")
    digest = sha256(witness.read_bytes()).hexdigest()
    folder = export.write(tmp_path / "x")
    (folder / "manifest.json").write_text(json.dumps({"v": 1, "sha256": {name: digest}}))
    found = run(folder, "--witness", witness)
    assert (found.status, found.bad) == (1, {"form"})


def test_a_file_without_a_head_says_so(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    text = export.splunk(tmp_path / "s.csv").read_text()
    (tmp_path / "s.csv").write_text(text, encoding="utf-16")
    found = run(export.write(tmp_path / "x"), "--witness", tmp_path / "s.csv")
    assert found.bad == {"head_absent"}
    assert "has no head" in found.what("head_absent")


def test_a_time_that_cannot_be_is_none(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    rows = [f'2026-02-30T25:61:00,9999999999,"{head}"' for head in export.heads]
    (tmp_path / "s.csv").write_text("\n".join(rows))
    found = run(export.write(tmp_path / "x"), "--witness", tmp_path / "s.csv")
    assert (found.status, found.findings) == (0, [])


@pytest.mark.parametrize("hours", [-8, 0, 5.5])
def test_a_time_of_another_zone_is_that_time(hours: float, run: Any, tmp_path: Path) -> None:
    """Splunk exports ``_time`` in the time zone of the user who exports."""
    export, zone = honest(4), timezone(timedelta(hours=hours))
    rows = []
    for head, sealed in zip(export.heads, export.sealed, strict=True):
        local = datetime.fromtimestamp(sealed // 1_000_000 + 2, zone)
        rows.append(f'"{local.strftime("%Y-%m-%dT%H:%M:%S.000%z")}","{head}"')
    (tmp_path / "s.csv").write_text("\n".join(rows))
    found = run(export.write(tmp_path / "x"), "--witness", tmp_path / "s.csv")
    assert (found.status, found.findings) == (0, [])


def test_heads_that_came_late(run: Any, tmp_path: Path) -> None:
    export = honest()
    witness = export.splunk(tmp_path / "s.csv", delay=4 * 3600)
    found = run(export.write(tmp_path / "x"), "--witness", witness)
    assert (found.status, found.notes) == (0, {"late_head"})


def test_heads_on_one_line_have_no_time_of_their_own(run: Any, tmp_path: Path) -> None:
    """The reply to a search is one line."""

    def reply(heads: list[str], at: int) -> Path:
        hits = [
            {"message": head, "event": {"ingested": checker.iso(at + number * HOUR)}}
            for number, head in enumerate(heads, 1)
        ]
        (tmp_path / "reply.json").write_text(json.dumps({"hits": hits}))
        return tmp_path / "reply.json"

    export = honest(8)
    folder = export.write(tmp_path / "x")
    assert run(folder, "--witness", reply(export.heads, BEGIN)).findings == []
    export, lost = restored(said=False)
    for _ in range(4):
        export.hour()
    heads = [*export.heads[:3], lost.heads[3], *export.heads[3:]]
    found = run(export.write(tmp_path / "y"), "--witness", reply(heads, BEGIN))
    assert found.bad == {"branch"}, "no instance lived on"


# --- keys -----------------------------------------------------------------------------------------


def pinned(folder: Path, export: Export) -> Path:
    file = folder / f"{sha256(export.public).hexdigest()[:8]}.pub"
    file.write_bytes(base64.b64encode(export.public) + b"\n")
    return file


def keyed(hours: int = 5) -> Export:
    export = Export(key=KEY)
    begun = {"fact": "key", "public": export.public.hex(), "before": None, "signature": None}
    for hour in range(hours):
        export.hour(instance=[begun] if not hour else None)
    return export


def test_signed_heads(run: Any, tmp_path: Path) -> None:
    export = keyed()
    witness = export.splunk(tmp_path / "s.csv")
    for more in ([], ["--key", pinned(tmp_path, export)]):
        found = run(export.write(tmp_path / "x"), "--witness", witness, *more)
        assert (found.status, found.findings) == (0, [])


def test_heads_by_another_hand(run: Any, tmp_path: Path) -> None:
    export = keyed()
    pin = pinned(tmp_path, export)
    other = export.copy()
    other.secret = Ed25519PrivateKey.from_private_bytes(OTHER_KEY)
    signed = export.heads[4].rsplit(".", 2)
    forged = {
        "unsigned": export.heads[4].rsplit(".", 2)[0] + ".-",
        "key": other.head(15),
        "key of an older head": ".".join([signed[0], *export.heads[3].rsplit(".", 2)[1:]]),
    }
    for code, head in forged.items():
        witness = export.splunk(tmp_path / "s.csv", [*export.heads, head])
        found = run(export.write(tmp_path / "x"), "--witness", witness, "--key", pin)
        assert found.bad == {code.split()[0]}
        assert found.status == 1


def test_a_head_without_its_signature_is_absent_too(run: Any, tmp_path: Path) -> None:
    export = keyed()
    export.write(tmp_path / "x")
    for number in (2, 4):  # the newest one as well
        heads = [*export.heads]
        heads[number] = heads[number].rsplit(".", 2)[0] + ".-"
        found = run(tmp_path / "x", "--witness", export.splunk(tmp_path / "s.csv", heads))
        assert found.bad == {"unsigned", "head_absent"}
        assert found.report["heads"] == {"given": 5, "fit": 4, "absent": 1, "contradict": 0}


def test_a_pinned_key_without_a_fact(run: Any, tmp_path: Path) -> None:
    export = honest()
    pin = pinned(tmp_path, keyed(1))
    found = run(
        export.write(tmp_path / "x"), "--witness", export.splunk(tmp_path / "s.csv"), "--key", pin
    )
    assert "unsigned" in found.bad


@pytest.mark.parametrize("lost", [False, True])
def test_a_new_key(lost: bool, run: Any, tmp_path: Path) -> None:
    export = keyed(3)
    old, first = export.secret, pinned(tmp_path, export)
    assert old is not None
    export.secret = Ed25519PrivateKey.from_private_bytes(OTHER_KEY)
    signature = old.sign(b"auditrelay key " + export.public.hex().encode()).hex()
    before = sha256(old.public_key().public_bytes_raw()).hexdigest()[:8]
    fact: Fact = {"fact": "key", "public": export.public.hex(), "before": before}
    export.hour(instance=[fact | {"signature": None if lost else signature}])
    export.hour()
    witness = export.splunk(tmp_path / "s.csv")
    found = run(export.write(tmp_path / "x"), "--witness", witness, "--key", first)
    assert found.bad == ({"key"} if lost else set())
    both = ["--key", first, "--key", pinned(tmp_path, export)]
    assert run(tmp_path / "x", "--witness", witness, *both).findings == []
    thief = export.copy()
    thief.secret = old  # which is not in force any more, though the head fits
    witness = export.splunk(tmp_path / "s.csv", [*export.heads, thief.head(15)])
    assert run(tmp_path / "x", "--witness", witness, *both).bad == {"key"}


# --- branches -------------------------------------------------------------------------------------


def restored(*, said: bool, made_up: int = 3) -> tuple[Export, Export]:
    """Return an export of a state that was restored, and one of the state that was lost."""
    export = honest(3)
    lost = export.copy()
    lost.hour(3)
    instance = [export.branch(OTHER_LOG)]
    if said:
        instance.append({"fact": "restored", "reason": "disk died", "by": 0})
    export.hour(made_up, instance=instance)
    export.hour(salt="later")
    return export, lost


@pytest.mark.parametrize("said", [False, True])
def test_a_branch(said: bool, run: Any, printed: Any, tmp_path: Path) -> None:
    export, lost = restored(said=said)
    witness = export.splunk(tmp_path / "s.csv", [*export.heads, lost.heads[3]])
    found = run(export.write(tmp_path / "x"), "--witness", witness)
    assert found.status == (0 if said else 1)
    assert (found.notes if said else found.bad) == {"branch"}
    (branch,) = found.report["branches"]
    assert branch["log"] == "7346c92ec83c0c19152a6840060797e1"
    out = printed(tmp_path / "x", "--witness", witness)
    assert "7346c9" in out
    assert "9a02f1" in out
    assert "1 heads of 7346c9 lie beyond" in out
    assert "disk died" in out or not said


def test_what_was_said_of_an_earlier_branch_excuses_no_later_one(run: Any, tmp_path: Path) -> None:
    export, _ = restored(said=True)
    export.hour(instance=[export.branch("5" * 32)])
    found = run(export.write(tmp_path / "x"))
    assert (found.bad, found.notes) == ({"branch"}, {"branch", "no_witness"})
    copy = export.copy()
    copy.hour(salt="copy")
    export.hour().hour()
    heads = [*export.heads, copy.heads[-1]]
    found = run(export.write(tmp_path / "x"), "--witness", export.splunk(tmp_path / "s.csv", heads))
    assert found.bad == {"branch", "fork"}


def test_a_dead_branch_that_lived_on(run: Any, tmp_path: Path) -> None:
    export, lost = restored(said=False)
    for _ in range(3):
        lost.hour()
    export.sealed += lost.sealed[4:]
    all_heads = [*export.heads, *lost.heads[4:]]
    export.heads = all_heads
    witness = export.splunk(tmp_path / "s.csv")
    export.heads = all_heads[:5]
    found = run(export.write(tmp_path / "x"), "--witness", witness)
    assert found.bad == {"branch", "fork"}
    assert "two instances" in found.what("fork")


def event_of_head(folder: Path, dead: Export, accepted: int) -> Path:
    """Write what Elasticsearch has of the newest head of an export."""
    claim = {"accepted": accepted, "covered_until": dead.at}
    event = {
        "message": f"Ledger sealed: {dead.heads[-1]}",
        "auditrelay": {"sources": {"okta": claim}},
    }
    (folder / "elastic.ndjson").write_text(json.dumps(event) + "\n")
    return folder / "elastic.ndjson"


@pytest.mark.parametrize(("made_up", "lost"), [(3, 0), (1, 2)])
def test_what_a_dead_branch_had_claimed(made_up: int, lost: int, run: Any, tmp_path: Path) -> None:
    export, dead = restored(said=True, made_up=made_up)
    export.write(tmp_path / "x")
    found = run(dead.write(tmp_path / "dead"), tmp_path / "x")
    assert found.status == 0, found.findings
    what = found.what("branch")
    assert f"okta had accepted 3 more, until 2026-11-26T04:00:00Z; made up: {made_up}" in what
    assert f"lost: {lost}" in what
    if lost:
        gone = dead.events[-2]["uid"]
        assert f"from 2026-11-26T03:00:01Z to 2026-11-26T03:00:02Z, such as {gone}" in what
    # A head tells how many and until when, and not which.
    witness = event_of_head(tmp_path, dead, 12)
    found = run(tmp_path / "x", "--witness", witness)
    assert found.status == 0, found.findings
    what = found.what("branch")
    assert f"of before that time {made_up} were accepted since" in what
    assert ("so 2 or more are lost" if lost else "only both exports with uids tell") in what
    assert "made up" not in what
    # Without uids it cannot be said.
    (tmp_path / "x" / "uids.ndjson").unlink()
    for arguments in (
        [tmp_path / "x", "--witness", witness],
        [tmp_path / "dead", tmp_path / "x"],
    ):
        assert "only uids tell" in run(*arguments).what("branch"), arguments


def test_what_happened_after_a_branch_makes_up_for_nothing(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    dead = export.copy().hour(20)
    said: Fact = {"fact": "restored", "reason": "disk died", "by": 0}
    gap = span("gap", 3, 4)
    export.at += HOUR
    export.hour(10, source=[gap], instance=[export.branch(OTHER_LOG), said], salt="newer")
    found = run(dead.write(tmp_path / "dead"), export.write(tmp_path / "x"))
    assert found.status == 0, found.findings
    assert "okta had accepted 20 more, until 2026-11-26T04:00:00Z; made up: 0; lost: 20" in (
        found.what("branch")
    )
    witness = event_of_head(tmp_path, dead, 29)
    assert "so 20 or more are lost" in run(tmp_path / "x", "--witness", witness).what("branch")
    # The head may be younger than the export of the log that was left.
    later = dead.copy().hour(2)
    witness = event_of_head(tmp_path, later, 31)
    found = run(tmp_path / "dead", tmp_path / "x", "--witness", witness)
    assert "made up: 0; lost: 20" in found.what("branch")
    assert "okta had accepted 2 more, until 2026-11-26T05:00:00Z; the older export" in (
        found.what("branch")
    )


def test_events_of_auditrelay_itself_are_not_lost(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    dead = export.copy()
    own = dead.page(1, salt="own")
    dead.hour(3, source=[dead.accepted(own, via="notice")])
    said: Fact = {"fact": "restored", "reason": "disk died", "by": 0}
    export.place += 1  # so that the uids are those of the dead log
    export.position += 1
    export.hour(3, instance=[export.branch(OTHER_LOG), said])
    export.write(tmp_path / "x")
    what = run(dead.write(tmp_path / "dead"), tmp_path / "x").what("branch")
    assert "made up: 3; lost: 0; of auditrelay itself or replayed: 1" in what


def test_a_branch_that_keeps_its_log_id(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    export.hour(instance=[export.branch(export.log)])
    assert "branch" in run(export.write(tmp_path / "x")).bad


def test_a_log_that_does_not_say_what_it_continues(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    export.log = OTHER_LOG
    export.hour()
    assert "branch" in run(export.write(tmp_path / "x")).bad


def test_a_branch_with_another_root(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    fact = export.branch(OTHER_LOG)
    export.hour(instance=[fact | {"root": "0" * 64}])
    assert "rewritten" in run(export.write(tmp_path / "x")).bad


# --- old and new ----------------------------------------------------------------------------------


def test_an_older_export(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    export.write(tmp_path / "old")
    export.hour()
    export.write(tmp_path / "new")
    assert run(tmp_path / "old", tmp_path / "new").bad == set()
    assert run(tmp_path / "new", tmp_path / "old").bad == {"cut"}


def test_an_older_export_must_be_whole_as_well(run: Any, tmp_path: Path) -> None:
    export = honest(3)
    edit(export.write(tmp_path / "old"), lambda lines: [*lines[:-1], b"{}\n"])
    found = run(tmp_path / "old", export.write(tmp_path / "new"))
    assert found.bad == {"form", "rewritten"}
    assert "the older export: line 9" in found.what("form")
    (tmp_path / "nothing").mkdir()
    assert run(tmp_path / "nothing", tmp_path / "new").bad == {"nothing"}


def test_the_head_of_a_log_that_was_left_does_not_fit_its_own_export(
    run: Any, tmp_path: Path
) -> None:
    export, lost = restored(said=True)
    other = export.copy()  # of the same size, and in the same log as the one that was lost
    words = lost.heads[3].split(".")
    head = ".".join([*words[:3], "0" * 64, *words[4:]])
    witness = other.splunk(tmp_path / "s.csv", [*export.heads[:3], head])
    found = run(lost.write(tmp_path / "lost"), export.write(tmp_path / "x"), "--witness", witness)
    assert found.bad == {"rewritten"}
    assert "head 12 has another root in the older export" in found.what("rewritten")


def test_an_older_export_shows_which_entry_was_changed(run: Any, tmp_path: Path) -> None:
    old, new = honest(4), Export()
    for hour in range(4):
        new.hour(2 if hour == 2 else 3)
    found = run(old.write(tmp_path / "old"), new.write(tmp_path / "new"))
    assert found.bad == {"rewritten"}
    assert found.findings[0]["entry"] == 7


# --- replay ---------------------------------------------------------------------------------------


def span(kind: str, start: int, end: int, reason: str = "retention") -> Fact:
    body = {"fact": kind, "start": BEGIN + start * HOUR, "end": BEGIN + end * HOUR}
    return body | {"reason": reason, "uid": None, "place": None}


def covering(start: int, end: int) -> Fact:
    body = {"fact": "covered", "via": "poll", "before": 1, "events": 0}
    body |= {"uids": sha256(b"").hexdigest()}
    return body | {"start": BEGIN + start * HOUR, "end": BEGIN + end * HOUR}


@pytest.mark.parametrize(
    "hours",
    [
        [[covering(0, 1)], [span("gap", 1, 2)], [span("filled", 1, 2), covering(1, 3)]],
        [[covering(0, 1)], [covering(2, 3), span("gap", 1, 2)], []],
        [[covering(0, 1), span("gap", 1, 3)], [span("filled", 1, 2), covering(1, 2)], []],
        [
            [covering(0, 1), span("gap", 1, 3)],
            [span("reopened", 1, 2)],
            [span("filled", 1, 2, "reopened"), covering(1, 2)],
        ],
        [[covering(0, 1), span("gap", 1, 3)], [span("reopened", 1, 2)], [span("gap", 1, 2)]],
        [
            [covering(0, 3), span("gap", 3, 4)],
            [span("retracted", 3, 4)],
            [covering(3, 4), span("gap", 2, 3, "damaged")],
        ],
    ],
    ids=["filled", "gap", "half filled", "reopened", "reopened in vain", "retracted, damaged"],
)
def test_coverage_without_a_hole(hours: list[list[Fact]], run: Any, tmp_path: Path) -> None:
    assert run(export_of(hours).write(tmp_path / "x")).bad == set()


@pytest.mark.parametrize(
    "hours",
    [
        [[covering(0, 1)], [covering(2, 3)], []],
        [[covering(1, 3)], [], []],
        [[covering(0, 2)], [], []],
        [[covering(0, 2)], [covering(1, 3)], []],
        [[covering(0, 1), span("gap", 1, 2)], [covering(1, 3)], []],
        [[covering(0, 1), span("gap", 1, 3)], [span("filled", 1, 2)], []],
        [[covering(0, 1), span("gap", 1, 3)], [span("retracted", 2, 3)], []],
        [[covering(0, 3)], [span("filled", 1, 2)], []],
        [[covering(0, 3)], [span("gap", 1, 2)], []],
    ],
    ids=[
        "hole", "from the start", "to the end", "twice", "gap not filled", "filled without reading",
        "retracted", "filled without a gap", "covered and a gap",
    ],
)  # fmt: skip
def test_coverage_with_a_hole(hours: list[list[Fact]], run: Any, tmp_path: Path) -> None:
    found = run(export_of(hours).write(tmp_path / "x"))
    assert found.bad == {"hole"}
    assert "okta" in found.what("hole")


def export_of(hours: list[list[Fact]]) -> Export:
    export = Export()
    for facts in hours:
        export.hour(0, source=facts, cover=False, change=at_the_end)
    return export


def at_the_end(entry: dict[str, Any]) -> None:
    if entry["unit"].startswith("source"):
        entry["state"]["covered_until"] = BEGIN + 3 * HOUR


def test_a_start_that_was_moved(run: Any, tmp_path: Path) -> None:
    export = honest(2)

    def later(entry: dict[str, Any]) -> None:
        if entry["unit"] == "source okta":
            entry["state"]["started"] = BEGIN + 4 * HOUR

    export.hour(cover=False)
    export.hour(cover=False, change=later)
    export.hour(change=later)
    assert run(export.write(tmp_path / "x")).bad == {"hole"}


def test_a_source_that_was_forgotten_begins_again(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    later = change_state("source okta", started=BEGIN + 4 * HOUR)
    forgotten: Fact = {"fact": "operator", "did": "forget", "by": 0, "name": "okta"}
    export.hour(cover=False, source=[forgotten], change=later)
    export.hour(cover=False, change=later)
    export.hour(change=later)
    assert run(export.write(tmp_path / "x")).bad == set()


def change_state(unit: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        if entry["unit"] == unit:
            entry["state"] |= fields

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (change_state("source okta", accepted=8), "state"),
        (change_state("source okta", vanished=1), "state"),
        (change_state("source okta", put_aside=1), "state"),
        (change_state("source okta", looked_again={"3600": BEGIN}), "state"),
        (change_state("sink splunk", dead=1), "letters"),
        (change_state("sink splunk", dropped=1), "letters"),
        (change_state("sink splunk", excluded=1), "letters"),
        (change_state("sink splunk", position=9), "position"),
        (change_state("sink splunk", position=11), "position"),
        (change_state("sink splunk", ahead=[[11, 2]]), "position"),
    ],
)
def test_a_state_that_is_not_the_sum_of_its_facts(
    change: Any, code: str, run: Any, tmp_path: Path
) -> None:
    found = run(honest(2).hour(change=change).write(tmp_path / "x"))
    assert found.bad == {code}


def test_places_that_are_left_out_or_given_twice(run: Any, tmp_path: Path) -> None:
    for by in (-1, 1):
        export = honest(3)
        export.place += by
        export.position += by
        assert "spool" in run(export.hour().write(tmp_path / f"x{by}")).bad


def test_a_sink_that_has_settled_only_what_is_ahead(run: Any, tmp_path: Path) -> None:
    ahead: Fact = {"fact": "delivered", "done": [[2, 1]]}
    change = change_state("sink splunk", ahead=[[2, 1]])
    export = Export().hour(sink=[ahead], deliver=False, change=change)
    assert run(export.write(tmp_path / "x")).bad == set()


def test_a_place_that_is_settled_twice_or_before_it_is_given(run: Any, tmp_path: Path) -> None:
    twice: Fact = {"fact": "delivered", "done": [[4, 1]]}
    assert "position" in run(honest(3).hour(sink=[twice]).write(tmp_path / "x")).bad
    early: Fact = {"fact": "delivered", "done": [[13, 5]]}
    change = change_state("sink splunk", ahead=[[13, 5]])
    assert "position" in run(honest(3).hour(sink=[early], change=change).write(tmp_path / "y")).bad


def test_dead_letters_and_their_replay(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    uid = export.events[3]["uid"]
    export.hour(sink=[{"fact": "dead", "reason": "too large", "events": 1, "each": [uid]}])
    (again,) = export.page(1)
    replayed: Fact = {"fact": "replayed", "pages": [[again["place"], 1]], "events": 1}
    export.hour(sink=[replayed | {"each": [uid], "stored": "0" * 64, "by": 0}])
    found = run(export.write(tmp_path / "x"))
    assert found.bad == set()
    export.hour(sink=[{"fact": "dropped", "reason": "x", "by": 0, "events": 1, "each": [uid]}])
    found = run(export.write(tmp_path / "x"))
    assert found.notes == {"no_witness", "letters"}


def test_a_head_that_the_journal_does_not_name(run: Any, tmp_path: Path) -> None:
    def silent(entry: dict[str, Any]) -> None:
        entry["facts"] = [fact for fact in entry["facts"] if fact["fact"] != "head"]

    assert run(honest(2).hour(change=silent).write(tmp_path / "x")).bad == {"order"}


def test_a_head_that_the_journal_names_otherwise(run: Any, tmp_path: Path) -> None:
    def other(entry: dict[str, Any]) -> None:
        for fact in entry["facts"]:
            if fact["fact"] == "head":
                fact["root"] = "0" * 64

    assert run(honest(2).hour(change=other).write(tmp_path / "x")).bad == {"rewritten"}


def test_own_heads_that_do_not_fit(run: Any, tmp_path: Path) -> None:
    export = honest()
    export.write(tmp_path / "x")
    heads = [*export.heads[:4], export.heads[4].replace(".15.", ".18.")]
    (tmp_path / "x" / "heads.txt").write_text("\n".join(heads))
    assert run(tmp_path / "x").bad == {"cut"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 99), ("seq", 9), ("since", None), ("since", 5), ("at", BEGIN)],
)
def test_an_entry_out_of_order(field: str, value: Any, run: Any, tmp_path: Path) -> None:
    def change(entry: dict[str, Any]) -> None:
        if entry["unit"] == "sink splunk":
            entry[field] = value

    assert "order" in run(honest(2).hour(change=change).write(tmp_path / "x")).bad


@pytest.mark.parametrize("further", [False, True], ids=["one line", "a further line"])
def test_a_state_that_was_upgraded(further: bool, run: Any, tmp_path: Path) -> None:
    export = Export()
    export.place = export.position = 1000
    found: Fact = {"fact": "taken_over", "started": BEGIN - HOUR * 99, "events": 5, "records": []}
    over: Fact = {"fact": "taken_over", "schema": 3, "place": 1000}

    def older(entry: dict[str, Any]) -> None:
        if entry["unit"] == "source okta":
            entry["state"]["started"] = found["started"]

    def first(entry: dict[str, Any]) -> None:
        older(entry)
        entry["state"] = None if further else entry["state"]  # then it stands in a later line

    export.hour(source=[found, span("filled", -5, -4)], instance=[over], change=first)
    for _ in range(3):
        export.hour(change=older)
    assert run(export.write(tmp_path / "x")).bad == set()


def test_what_had_a_place_before_an_upgrade_may_be_settled(run: Any, tmp_path: Path) -> None:
    settled: Fact = {"fact": "delivered", "done": [[1, 3]]}
    for place, bad in ((4, set()), (3, {"position"})):
        export = Export()
        export.place = export.position = 4
        over: Fact = {"fact": "taken_over", "schema": 3, "place": place}
        export.hour(0, instance=[over], source=[FOUND], sink=[settled])
        assert run(export.write(tmp_path / "x")).bad == bad


def test_a_gap_from_before_an_upgrade_is_taken_back_after_it(run: Any, tmp_path: Path) -> None:
    record = [1, BEGIN, "gap", BEGIN, BEGIN + 2 * HOUR, "retention", "poll", 0, "00" * 20]
    found: Fact = {"fact": "taken_over", "started": BEGIN, "events": 0, "records": [record]}
    export = Export().hour(source=[found, span("retracted", 0, 2)], cover=False)
    for _ in range(3):
        export.hour()
    assert run(export.write(tmp_path / "x")).bad == set()


def test_what_an_auditor_wants_to_know(run: Any, printed: Any, tmp_path: Path) -> None:
    export = Export()
    old: Fact = {
        "fact": "configured",
        "digest": "0" * 64,
        "settings": {"sources.okta.settle": "5m"},
    }
    new: Fact = {
        "fact": "configured",
        "digest": "1" * 64,
        "settings": {"sources.okta.settle": "1m"},
    }
    export.hour(instance=[old])
    export.at += 5 * HOUR
    export.hour(0, cover=False, instance=[new, {"fact": "clock", "seconds": 90}])
    export.hour(0, cover=False, sink=[{"fact": "retired", "place": 4}])

    found = run(export.write(tmp_path / "x"))
    assert found.notes == {"no_witness", "configuration", "downtime", "clock"}
    out = printed(tmp_path / "x")
    assert "sources.okta.settle 5m -> 1m" in out
    assert "2026-11-26T01:00:00Z to 2026-11-26T07:00:00Z" in out
    assert "retired" in out


# --- the SIEM and the vendor ----------------------------------------------------------------------


def splunk_uids(events: list[dict[str, Any]]) -> str:
    rows = [f"{e['uid']},{e['raw_sha256']},{BEGIN // 1_000_000}" for e in events]
    return "\n".join(["event_id,auditrelay.raw_sha256,_indextime", *rows]) + "\n"


def elastic_uids(events: list[dict[str, Any]]) -> str:
    hits = [
        {
            "_id": e["uid"],
            "_source": {"auditrelay": {"uid": e["uid"]}, "event": {"hash": e["raw_sha256"]}},
        }
        for e in events
    ]
    return "".join(json.dumps(hit) + "\n" for hit in hits)


def datadog_uids(events: list[dict[str, Any]]) -> str:
    rows = [f'"2026-11-26T00:00:00Z","{e["uid"]}","{e["raw_sha256"]}"' for e in events]
    return "\n".join(['"Date","@evt.id","@auditrelay.raw_sha256"', *rows]) + "\n"


SIEMS = [splunk_uids, elastic_uids, datadog_uids]


@pytest.mark.parametrize("write", SIEMS)
def test_a_siem(write: Any, run: Any, printed: Any, tmp_path: Path) -> None:
    export = honest()
    export.write(tmp_path / "x")
    events = export.events
    file = tmp_path / "uids"

    def check(events: list[dict[str, Any]]) -> Any:
        file.write_text(write(events))
        return run(tmp_path / "x", "--siem", f"splunk={file}")

    assert check(events).bad == set()
    assert (
        "siem       splunk: 15 of 15 found; 0 more than were sent; 0 twice; 0 excluded"
        in printed(tmp_path / "x", "--siem", f"splunk={file}")
    )
    found = check(events[:7] + events[8:])
    assert found.bad == {"not_in_siem"}
    assert events[7]["uid"] in found.what("not_in_siem")
    stranger = {"uid": "f" * 40, "raw_sha256": "0" * 64}
    found = check([*events, stranger])
    assert found.bad == {"only_in_siem"}
    assert "f" * 40 in found.what("only_in_siem")
    edited = [*events[:3], events[3] | {"raw_sha256": "0" * 64}, *events[4:]]
    found = check(edited)
    assert found.bad == {"changed_in_siem"}
    (entry,) = [each["entry"] for each in found.findings if each["code"] == "changed_in_siem"]
    assert entry == events[3]["n"]
    assert check([*events, events[0]]).bad == set()
    assert "1 twice" in printed(tmp_path / "x", "--siem", f"splunk={file}")


def excluding(*places: list[int], glob: str = "session.*") -> Fact:
    events = sum(count for _, count in places)
    return {"fact": "excluded", "glob": glob, "places": list(places), "events": events}


def test_what_a_sink_excludes_is_not_due_to_it(run: Any, printed: Any, tmp_path: Path) -> None:
    settings = {"sinks.splunk.exclude": "user.*, session.*", "sources.okta.settle": "5m"}
    configured: Fact = {"fact": "configured", "digest": "0" * 64, "settings": settings}
    export = Export().hour(instance=[configured])
    export.hour(sink=[excluding([4, 1], [6, 1])]).hour()
    export.write(tmp_path / "x")
    file = tmp_path / "s.csv"

    def check(*left_out: int) -> Any:
        file.write_text(splunk_uids([e for e in export.events if e["place"] not in left_out]))
        return run(tmp_path / "x", "--siem", f"splunk={file}")

    assert check(4, 6).bad == set()
    out = printed(tmp_path / "x", "--siem", f"splunk={file}")
    assert "splunk: 7 of 7 found; 0 more than were sent; 0 twice; 2 excluded" in out
    assert "2026-11-26T01:00:00Z: sinks.splunk.exclude None -> user.*, session.*" in out
    line = 'sink splunk: 2 events were not sent, as its exclude has "session.*", from '
    assert f"{line}2026-11-26T01:00:00Z to 2026-11-26T02:00:00Z (entry" in out
    assert "settle" not in out
    assert check().bad == set(), "what was sent by an earlier configuration is there"
    assert check(4, 5).bad == {"not_in_siem"}


def test_how_many_records_were_compared_is_said(printed: Any, tmp_path: Path) -> None:
    """A fact has one digest for all its records, so they are compared if all of them are there."""
    export = Export().hour().hour(sink=[excluding([4, 1])])
    export.write(tmp_path / "x")
    edited = [
        event | {"raw_sha256": "0" * 64} if event["place"] == 5 else event
        for event in export.events
    ]
    for events, records in ((export.events, 6), ([e for e in edited if e["place"] != 4], 3)):
        (tmp_path / "s.csv").write_text(splunk_uids(events))
        out = printed(tmp_path / "x", "--siem", f"splunk={tmp_path / 's.csv'}")
        assert f"1 excluded; {records} of 6 records compared" in out
        vendor = vendor_file(tmp_path, [e for e in export.events if e in events], 2)
        assert f" and {records} records compared" in printed(tmp_path / "x", "--vendor", vendor)
    (tmp_path / "s.csv").write_text("".join(f"{e['uid']}\n" for e in export.events))
    out = printed(tmp_path / "x", "--siem", f"splunk={tmp_path / 's.csv'}")
    assert "0 of 6 records compared" in out


def test_what_no_configuration_excludes_is_named(printed: Any, tmp_path: Path) -> None:
    export = honest(2).hour(sink=[excluding([8, 1], glob="*")])
    assert 'exclude has "*"' in (out := printed(export.write(tmp_path / "x")))
    assert "; no configuration says so" in out


def test_what_is_excluded_must_be_settled(run: Any, tmp_path: Path) -> None:
    export = honest(2).hour(sink=[excluding([9, 2])], deliver=False)
    assert run(export.write(tmp_path / "x")).bad == {"position"}


def test_what_came_into_the_siem_later_is_a_note(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    later = f"{'e' * 40},{'0' * 64},{(export.at + HOUR) // 1_000_000}\n"
    (tmp_path / "s.csv").write_text(splunk_uids(export.events) + later)
    found = run(export.write(tmp_path / "x"), "--siem", f"splunk={tmp_path / 's.csv'}")
    assert (found.status, found.notes) == (0, {"no_witness", "only_in_siem"})


@pytest.mark.parametrize(("seconds", "bad"), [(0.7, set()), (300, set()), (900, {"only_in_siem"})])
def test_what_was_read_before_the_last_seal_may_be_accepted_after_it(
    seconds: float, bad: set[str], run: Any, tmp_path: Path
) -> None:
    """``event.created`` is when it was read, and Splunk's index has whole seconds."""
    export = honest(2)
    at = checker.iso(export.at - int(seconds * 1_000_000))
    later = {"auditrelay": {"uid": "e" * 40}, "event": {"hash": "0" * 64, "created": at}}
    (tmp_path / "s").write_text(elastic_uids(export.events) + json.dumps(later) + "\n")
    found = run(export.write(tmp_path / "x"), "--siem", f"splunk={tmp_path / 's'}")
    assert found.bad == bad


def upgraded() -> Export:
    """Return an export that begins with a state in which three events had a place."""
    export = Export()
    export.place = export.position = 4
    over: Fact = {"fact": "taken_over", "schema": 3, "place": 4}
    return export.hour(instance=[over], source=[FOUND]).hour()


FOUND: Fact = {"fact": "taken_over", "started": BEGIN, "events": 3, "records": []}


@pytest.mark.parametrize(
    ("count", "minutes", "bad"), [(4, 61, False), (5, 61, True), (9, 9, False)]
)
def test_what_was_sent_before_an_upgrade_may_be_in_the_siem(
    count: int, minutes: int, bad: bool, run: Any, tmp_path: Path
) -> None:
    export = upgraded()
    at = BEGIN // 1_000_000 + minutes * 60
    old = "".join(f"{'e' * 38}{n:02},{'0' * 64},{at}\n" for n in range(count))
    (tmp_path / "s.csv").write_text(splunk_uids(export.events) + old)
    found = run(export.write(tmp_path / "x"), "--siem", f"splunk={tmp_path / 's.csv'}")
    assert found.bad == ({"only_in_siem"} if bad else set())
    assert ("only_in_siem" in found.notes) is (minutes > 60 and not bad)


def test_a_reduced_copy_is_in_the_siem(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    dead, copy = export.events[3]["uid"], "c" * 40
    place = export.page(1)[0]["place"]
    refilled: Fact = {"fact": "refilled", "pages": [[place, 1]], "events": 1, "each": [copy]}
    refused: Fact = {"fact": "dead", "reason": "too large", "events": 1, "each": [dead]}
    export.hour(sink=[refused, refilled])
    export.write(tmp_path / "x")
    file = tmp_path / "s.csv"
    rows = splunk_uids([event for event in export.events if event["uid"] != dead])
    for there, bad in ((f"{copy},{'0' * 64},{BEGIN // 1_000_000}\n", set()), ("", {"not_in_siem"})):
        file.write_text(rows + there)
        assert run(tmp_path / "x", "--siem", f"splunk={file}").bad == bad
    # It may have been removed with its source before it was sent.
    export.hour(0, source=[FORGET | {"name": "okta"}], cover=False).write(tmp_path / "x")
    assert "not_in_siem" not in run(tmp_path / "x", "--siem", f"splunk={file}").bad


def test_a_sink_that_was_removed_starts_again(run: Any, tmp_path: Path) -> None:
    export = honest(2).hour(deliver=False)
    export.position = export.place  # what waited for it is gone
    began: Fact = {"fact": "began", "since": {"okta": export.place}}
    assert run(export.hour(sink=[FORGET, began]).hour().write(tmp_path / "x")).bad == set()


def test_what_was_pruned_while_a_sink_was_away_need_not_be_in_the_siem(
    run: Any, tmp_path: Path
) -> None:
    export = honest(2)
    lost = {event["uid"] for event in export.hour(deliver=False).events[6:8]}
    export.hour(
        sink=[{"fact": "retired", "place": 7}, {"fact": "back", "since": {"okta": 1}}],
        instance=[{"fact": "pruned", "before": 9, "events": 2, "why": "room"}],
    )
    export.write(tmp_path / "x")
    file = tmp_path / "s.csv"
    file.write_text(splunk_uids([event for event in export.events if event["uid"] not in lost]))
    assert run(tmp_path / "x", "--siem", f"splunk={file}").bad == set()
    file.write_text(splunk_uids([e for e in export.events[:8] if e["uid"] not in lost]))
    assert run(tmp_path / "x", "--siem", f"splunk={file}").bad == {"not_in_siem"}


def test_tstats_counts_what_is_there_twice(printed: Any, tmp_path: Path) -> None:
    export = honest(2)
    rows = [f"{event['uid']},{1 + (event['place'] == 2)}" for event in export.events]
    (tmp_path / "s.csv").write_text("\n".join(["event_id,count", *rows]))
    out = printed(export.write(tmp_path / "x"), "--siem", f"splunk={tmp_path / 's.csv'}")
    assert "6 of 6 found; 0 more than were sent; 1 twice" in out


def test_a_dead_letter_need_not_be_in_the_siem(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    dead = export.events[3]["uid"]
    export.hour(sink=[{"fact": "dead", "reason": "too large", "events": 1, "each": [dead]}])
    file = tmp_path / "s.csv"
    arguments = [export.write(tmp_path / "x"), "--siem", f"splunk={file}"]
    file.write_text(splunk_uids([event for event in export.events if event["uid"] != dead]))
    assert run(*arguments).bad == set()
    place = export.page(1)[0]["place"]
    replayed: Fact = {"fact": "replayed", "pages": [[place, 1]], "events": 1, "each": [dead]}
    export.hour(sink=[replayed])
    export.write(tmp_path / "x")
    file.write_text(splunk_uids([event for event in export.events if event["uid"] != dead]))
    assert run(*arguments).bad == {"not_in_siem"}


def test_what_waits_need_not_be_in_the_siem(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    export.hour(deliver=False)
    (tmp_path / "s.csv").write_text(splunk_uids(export.events[:6]))
    found = run(export.write(tmp_path / "x"), "--siem", f"splunk={tmp_path / 's.csv'}")
    assert found.bad == set()


@pytest.mark.parametrize(("since", "due"), [({}, 0), ({"okta": 1}, 9), ({"okta": 7}, 3)])
def test_what_a_sink_does_not_get_need_not_be_in_the_siem(
    since: dict[str, int], due: int, run: Any, printed: Any, tmp_path: Path
) -> None:
    export = honest(2).hour(change=change_state("sink splunk", since=since))
    (tmp_path / "s.csv").write_text(splunk_uids(export.events[9 - due :]))
    asked = [export.write(tmp_path / "x"), "--siem", f"splunk={tmp_path / 's.csv'}"]
    assert run(*asked).bad == set()
    assert f"splunk: {due} of {due} found" in printed(*asked)


def test_a_siem_needs_all_uids(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    export.write(tmp_path / "x")
    (tmp_path / "s.csv").write_text(splunk_uids(export.events))
    assert run(tmp_path / "x", "--siem", f"elastic={tmp_path / 's.csv'}").bad == {"nothing"}
    (tmp_path / "x" / "uids.ndjson").unlink()
    assert run(tmp_path / "x", "--siem", f"splunk={tmp_path / 's.csv'}").bad == {"nothing"}


@pytest.mark.parametrize("forge", ["other uid", "other order", "page of no entry", "no JSON"])
def test_uids_that_are_not_those_of_the_entries(forge: str, run: Any, tmp_path: Path) -> None:
    export = honest(3)
    if forge == "other uid":
        keys = bytearray(base64.b64decode(export.pages[1]["keys"]))
        keys[9] ^= 1
        export.pages[1]["keys"] = base64.b64encode(keys).decode()
    elif forge == "other order":
        keys = bytearray(base64.b64decode(export.pages[1]["keys"]))
        export.pages[1]["keys"] = base64.b64encode(keys[28:] + keys[:28]).decode()
    elif forge == "page of no entry":
        export.pages.insert(1, export.pages[1] | {"first": 99})
    export.write(tmp_path / "x")
    if forge == "no JSON":
        (tmp_path / "x" / "uids.ndjson").write_bytes(b"\xff[\n")
    assert run(tmp_path / "x").bad == {"form" if forge == "no JSON" else "known"}


def vendor_file(folder: Path, events: list[dict[str, Any]], hours: int) -> Path:
    lines: list[dict[str, Any]] = [{"source": "okta", "from": BEGIN, "to": BEGIN + hours * HOUR}]
    lines += [{name: event[name] for name in ("time", "uid", "raw_sha256")} for event in events]
    file = folder / "vendor.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize("listed", [True, False])
def test_a_vendor(listed: bool, run: Any, tmp_path: Path) -> None:
    export = honest(4)
    export.write(tmp_path / "x")
    if not listed:
        (tmp_path / "x" / "uids.ndjson").unlink()
    events = export.events

    def check(events: list[dict[str, Any]], hours: int = 4) -> Any:
        return run(tmp_path / "x", "--vendor", vendor_file(tmp_path, events, hours))

    assert check(events).bad == set()
    assert check(events[:6], hours=2).bad == set()
    assert check(events[:7] + events[8:]).bad == {"vendor"}
    found = check([*events, events[0] | {"uid": "e" * 40}])
    assert found.bad == {"vendor"}
    assert "4 events" in found.what("vendor")
    changed = [events[0] | {"raw_sha256": "0" * 64}, *events[1:]]
    assert check(changed).bad == ({"vendor"} if listed else set())


@pytest.mark.parametrize("listed", [True, False])
def test_a_late_event_is_no_finding(listed: bool, run: Any, tmp_path: Path) -> None:
    export = honest(2)
    late = export.page(1, start=BEGIN + 1, salt="late")
    export.hour(source=[export.accepted(late, via="resweep 1h", late=1)])
    export.write(tmp_path / "x")
    if not listed:
        (tmp_path / "x" / "uids.ndjson").unlink()
    found = run(tmp_path / "x", "--vendor", vendor_file(tmp_path, export.events, 3))
    assert found.bad == set()
    assert ("vendor" in found.notes) is not listed


def test_what_was_removed_before_its_seal_was_not_counted(run: Any, tmp_path: Path) -> None:
    def uncounted(entry: dict[str, Any]) -> None:
        for fact in entry["facts"]:
            if fact["fact"] == "covered":
                fact.update(events=0, uids=sha256().hexdigest())
        # Its removal stands behind what was read before it.
        entry["facts"].sort(key=lambda fact: bool(fact["fact"] == "operator"))
        if entry["unit"] == "source okta" and facts:  # it has begun again
            entry["state"].update(started=BEGIN + 3 * HOUR, covered_until=BEGIN + 3 * HOUR)

    for facts, bad in (([FORGET | {"name": "okta"}], set()), ([], {"vendor"})):
        export = honest(2).hour(source=facts, change=uncounted)
        export.write(tmp_path / "x")
        found = run(tmp_path / "x", "--vendor", vendor_file(tmp_path, export.events, 3))
        assert found.bad == bad


@pytest.mark.parametrize("listed", [True, False])
def test_an_event_that_is_gone_and_one_that_is_late_are_no_finding(
    listed: bool, run: Any, tmp_path: Path
) -> None:
    export = honest(2)
    late = export.page(1, start=BEGIN + 1, salt="late")
    gone = export.events[1]
    vanished: Fact = {"fact": "vanished", "start": BEGIN, "end": BEGIN + HOUR, "events": 1}
    export.hour(source=[export.accepted(late, via="resweep 1h", late=1), vanished])
    export.write(tmp_path / "x")
    if not listed:
        (tmp_path / "x" / "uids.ndjson").unlink()
    shown = [event for event in export.events if event is not gone]
    assert run(tmp_path / "x", "--vendor", vendor_file(tmp_path, shown, 3)).bad == set()
    swapped = [event | {"uid": "e" * 40} if event is gone else event for event in export.events]
    bad = run(tmp_path / "x", "--vendor", vendor_file(tmp_path, swapped, 3)).bad
    assert bad == ({"vendor"} if listed else set()), "without uids it may be the late one"


def test_what_was_read_after_a_removal_was_counted(run: Any, tmp_path: Path) -> None:
    def begun_again(entry: dict[str, Any]) -> None:
        if entry["unit"] == "source okta":
            entry["state"]["started"] = BEGIN + 2 * HOUR

    export = honest(2).hour(source=[FORGET | {"name": "okta"}], change=begun_again)
    export.write(tmp_path / "x")
    for shown, bad in ((export.events[6:], set()), (export.events[7:], {"vendor"})):
        file = vendor_file(tmp_path, shown, 3)
        lines = file.read_text().replace(str(BEGIN), str(BEGIN + 2 * HOUR), 1)
        file.write_text(lines)
        assert run(tmp_path / "x", "--vendor", file).bad == bad


def test_what_was_deleted_elsewhere_excuses_nothing(run: Any, tmp_path: Path) -> None:
    export = honest(2)
    vanished: Fact = {"fact": "vanished", "start": BEGIN, "end": BEGIN + HOUR, "events": 1}
    export.hour(source=[vanished]).write(tmp_path / "x")
    for gone, bad in ((1, set()), (4, {"vendor"})):
        shown = [*export.events[:gone], *export.events[gone + 1 :]]
        assert run(tmp_path / "x", "--vendor", vendor_file(tmp_path, shown, 3)).bad == bad
    export.hour(source=[FORGET | {"name": "okta"}], cover=False).write(tmp_path / "y")
    shown = export.events[1:]
    assert "vendor" not in run(tmp_path / "y", "--vendor", vendor_file(tmp_path, shown, 3)).bad


def test_a_vendor_file_of_another_source(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "v"
    file.write_text('{"source":"slack","from":1,"to":2}\n')
    assert run(honest(2).write(tmp_path / "x"), "--vendor", file).bad == {"nothing"}


def test_a_vendor_file_within_which_no_span_lies_compares_nothing(run: Any, tmp_path: Path) -> None:
    export = honest(4)
    found = run(export.write(tmp_path / "x"), "--vendor", vendor_file(tmp_path, [], 0))
    assert (found.status, found.bad) == (1, {"nothing"})


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("manifest.json", ""),
        ("uids.ndjson", ""),
        ("old/uids.ndjson", ""),
        ("vendor.ndjson", "--vendor"),
        ("proof.json", "proof"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, option: str, run: Any, tmp_path: Path
) -> None:
    export = honest(2)
    asked = [export.write(tmp_path / "old"), export.write(tmp_path)]
    (tmp_path / name).write_text("{}\n")
    words = {"": asked, "proof": [tmp_path / name]}.get(option, [tmp_path, option, tmp_path / name])
    (finding,) = [each for each in run(*words).findings if each["level"] == "bad"]
    assert finding["code"] == "form"
    assert Path(name).name in (finding["where"] or finding["what"])


# --- the proof of one event -----------------------------------------------------------------------


def test_the_time_in_a_proof_is_that_of_the_event(run: Any, tmp_path: Path) -> None:
    export, file = honest(), tmp_path / "proof.json"
    event = export.events[4]
    for at, bad in ((event["time"], set[str]()), (None, set[str]()), (event["time"] + 1, {"form"})):
        file.write_text(json.dumps(export.proof(event["uid"]) | {"at": at}))
        assert run(file).bad == bad


def test_a_proof(run: Any, printed: Any, tmp_path: Path) -> None:
    export = honest()
    event = export.events[4]
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(export.proof(event["uid"])))
    witness = export.splunk(tmp_path / "s.csv")
    found = run(file, "--witness", witness)
    assert (found.status, found.findings) == (0, [])
    out = printed(file, "--witness", witness)
    assert f"event      {event['uid']} of okta" in out
    assert "accepted by 2026-11-26T02:00:00Z, poll (entry 5)" in out
    assert "splunk took it by 2026-11-26T02:00:00Z (entry 4)" in out
    assert "s.csv line 6" in out
    assert run(file).notes == {"no_witness"}
    found = run(file, "--witness", export.splunk(witness, export.heads[:4]))
    assert (found.status, found.notes) == (0, {"no_witness"}), "it has heads of this log"
    assert run(file, "--witness", honest(5, log=OTHER_LOG).splunk(witness)).bad == {"head_foreign"}


def test_a_proof_by_the_key_of_another(run: Any, tmp_path: Path) -> None:
    export, file = keyed(), tmp_path / "proof.json"
    pin = pinned(tmp_path, export)
    stranger = Export(key=OTHER_KEY).hour()
    other = pinned(tmp_path, stranger)
    file.write_text(json.dumps(export.proof(export.events[4]["uid"])))
    assert run(file, "--key", pin).notes == {"no_witness"}
    assert run(file, "--key", pin, "--key", other).bad == set()
    assert run(file, "--key", other).bad == {"key"}
    unsigned = honest()
    file.write_text(json.dumps(unsigned.proof(unsigned.events[4]["uid"])))
    assert run(file, "--key", pin).bad == {"unsigned"}
    assert run(file).bad == set()


def test_a_proof_and_what_the_siem_has_of_its_event(run: Any, printed: Any, tmp_path: Path) -> None:
    export, file, siem = honest(), tmp_path / "proof.json", tmp_path / "s.csv"
    event = export.events[4]
    file.write_text(json.dumps(export.proof(event["uid"])))
    siem.write_text(splunk_uids([event]))
    assert "siem       splunk has it" in printed(file, "--siem", f"splunk={siem}")
    assert run(file, "--siem", f"splunk={siem}").bad == set()
    assert run(file, "--siem", f"elastic={siem}").bad == {"nothing"}
    siem.write_text(splunk_uids(export.events[:4]))
    found = run(file, "--siem", f"splunk={siem}")
    assert (found.bad, event["uid"] in found.what("not_in_siem")) == ({"not_in_siem"}, True)


def test_no_more_is_said_to_be_proved_than_the_newest_head_proves(
    run: Any, printed: Any, tmp_path: Path
) -> None:
    export = honest()
    export.write(tmp_path / "x")
    (tmp_path / "minutes").write_text(export.heads[1])
    for words, proved, end in (
        ([], 0, "whole: the export fits itself. No head proves it.\n"),
        (["--witness", tmp_path / "minutes"], 6, "whole: nothing before entry 6 was changed"),
    ):
        assert run(tmp_path / "x", *words).report["proved"] == proved
        assert end in printed(tmp_path / "x", *words)


def forge_proof(proof: dict[str, Any], other: dict[str, Any], forge: str) -> dict[str, Any]:
    accepted, others = proof["accepted"], other["accepted"]
    forged: dict[str, dict[str, Any]] = {
        "uid": {"uid": other["uid"]},
        "source": {"source": "slack"},
        "path": {"accepted": accepted | {"path": others["path"]}},
        "line": {"accepted": accepted | {"line": others["line"]}},
        "entry of another": {"accepted": others},
        "keys": {"page": other["page"]},
        "sink": {"sinks": {"elastic": proof["sinks"]["splunk"]}},
        "sink of another": {"sinks": other["sinks"]},
        "n": {"accepted": accepted | {"n": -1}},
        "size": {"head": proof["head"].replace(".15.", ".0.")},
        "head": {"head": None},
    }
    return proof | forged[forge]


FORGED = [
    "uid",
    "source",
    "path",
    "line",
    "entry of another",
    "keys",
    "sink",
    "sink of another",
    "n",
    "size",
    "head",
]


@pytest.mark.parametrize("forge", FORGED)
def test_a_forged_proof(forge: str, run: Any, tmp_path: Path) -> None:
    export = honest()
    proof, other = (export.proof(export.events[number]["uid"]) for number in (4, 10))
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(forge_proof(proof, other, forge)))
    found = run(file)
    assert (found.status, found.bad) == (1, {"form"})


@pytest.mark.parametrize("since", [{}, {"slack": 1}, {"okta": 99}])
def test_a_proof_by_a_sink_that_does_not_get_the_source(
    since: dict[str, int], run: Any, tmp_path: Path
) -> None:
    export = honest(2).hour(change=change_state("sink splunk", since=since))
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(export.proof(export.events[7]["uid"])))
    found = run(file)
    assert found.bad == {"form"}
    assert "the sink splunk did not get the source at place 8" in found.what("form")


def test_a_proof_by_an_entry_that_counts_other_events(run: Any, tmp_path: Path) -> None:
    def change(entry: dict[str, Any]) -> None:
        for fact in entry["facts"]:
            if fact["fact"] == "accepted":
                fact["pages"] = [[first, count + 1] for first, count in fact["pages"]]

    export = honest(2).hour(change=change)
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(export.proof(export.events[7]["uid"])))
    assert run(file).bad == {"form"}


def test_a_proof_that_a_head_contradicts(run: Any, tmp_path: Path) -> None:
    export, other = honest(), Export()
    for _ in range(5):
        other.hour(2)
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(export.proof(export.events[4]["uid"])))
    found = run(file, "--witness", other.splunk(tmp_path / "s.csv"))
    assert found.bad == {"rewritten"}


# --- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing"],
        ["x", "--witness", "missing"],
        ["x", "--key", "x/heads.txt"],
        ["x", "--siem", "splunk"],
        ["x", "x", "x"],
        ["x", "--witness", "x/heads.txt"],
        ["x", "--witness", "link/heads.txt"],
        ["x", "--siem", "splunk=s", "--siem", "splunk=s"],
        ["x", "proof.json"],
        ["proof.json", "--vendor", "x"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    honest(2).write(tmp_path / "x")
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "s").touch()
    assert program.main(arguments) == 2
    out = capsys.readouterr()
    assert out.err.count("\n") == 1
    assert out.err.startswith("auditrelay evidence check: ")


@pytest.mark.parametrize("content", ["", "x", "not base64!", base64.b64encode(b"short").decode()])
def test_a_key_that_is_none_is_named(content: str, tmp_path: Path, capsys: Any) -> None:
    honest(2).write(tmp_path / "x")
    file = tmp_path / "audit.pub"
    file.write_text(content)
    assert program.main([str(tmp_path / "x"), "--key", str(file)]) == 2
    assert f"{file} is no public key" in capsys.readouterr().err


def test_a_folder_is_no_file_of_heads(tmp_path: Path, capsys: Any) -> None:
    honest(2).write(tmp_path / "x")
    assert program.main([str(tmp_path / "x"), "--witness", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path} is a directory: give a file" in err


PIECES = ["{", "}", "[", "]", '"', ",", ":", "1e999", "nan", "uid", "n", "first", "keys", "null"]
PIECES += ["_indextime", "event_id", "\n", "\0", "a" * 40]
NASTY = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from(PIECES)).map(lambda pieces: "".join(pieces).encode()),
)
FILES = ("journal.ndjson", "heads.txt", "uids.ndjson", "w", "s", "v", "k", "p.json")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FILES), NASTY, st.booleans())
def test_any_bytes_end_in_a_finding_or_one_line(name: str, content: bytes, behind: bool) -> None:
    export = honest(2)
    with tempfile.TemporaryDirectory() as made:
        folder = export.write(Path(made))
        export.splunk(folder / "w")
        (folder / "k").write_text(base64.b64encode(KEY).decode())
        (folder / "s").write_text(splunk_uids(export.events))
        vendor_file(folder, export.events, 2).rename(folder / "v")
        (folder / "p.json").write_text(json.dumps(export.proof(export.events[0]["uid"])))
        with (folder / name).open("ab" if behind else "wb") as file:
            file.write(content)
        asked = [folder, "--witness", folder / "w", "--siem", f"splunk={folder / 's'}"]
        asked += ["--vendor", folder / "v", "--key", folder / "k"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert program.main([str(each) for each in asked]) in (1, 2)
            assert program.main([str(folder / "p.json")]) in (0, 1, 2)
        assert err.getvalue().count("\n") <= 2


ODD: list[Any] = [
    None,
    True,
    -1,
    1 << 70,
    "x",
    "\ud800\x1b[2J",
    [],
    {},
    [[]],
    [["a", 1]],
    {"a": []},
]


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value: what holds it, and its key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(value, at) for at, _ in items]
    children = list(value.values() if isinstance(value, dict) else value)
    for child in children:
        if isinstance(child, (dict, list)):
            found += places_in(child)
    return found


@settings(max_examples=extent(150, 1000), deadline=None)
@given(st.data())
def test_any_value_anywhere_ends_in_a_finding_or_one_line(data: st.DataObject) -> None:
    export = Export(key=KEY)
    uid = "a" * 40
    begun = {"fact": "key", "public": export.public.hex(), "before": None, "signature": None}
    configured = {"fact": "configured", "digest": "0", "settings": {"a": 1}}
    export.hour(instance=[begun, configured], source=[span("gap", -1, 0)])
    dead = {"fact": "dead", "reason": "", "events": 1, "each": [uid]}
    restored = {"fact": "restored", "reason": "", "by": 0}
    export.hour(instance=[export.branch(OTHER_LOG), restored, configured], sink=[dead])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        export.splunk(folder / "w")
        (folder / "s").write_text(splunk_uids(export.events))
        vendor_file(folder, export.events, 2).rename(folder / "v")
        n = data.draw(st.integers(0, len(export.lines) - 1))
        entry = json.loads(export.lines[n])
        holder, at = data.draw(st.sampled_from(places_in(entry)))
        if isinstance(holder, dict) and data.draw(st.booleans()):
            del holder[at]
        else:
            holder[at] = data.draw(st.sampled_from(ODD))
        same, export.lines[n] = export.lines[n], text(entry)
        export.write(folder)
        asked = [folder, "--witness", folder / "w", "--siem", f"splunk={folder / 's'}"]
        asked += ["--vendor", folder / "v"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = program.main([str(each) for each in asked])
        assert status in (1, 2) or same == export.lines[n]
        assert err.getvalue().count("\n") <= 1
        assert out.getvalue().isascii()
        assert "\x1b" not in out.getvalue()


FILES_OF_IT = sorted(SOURCE.parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES_OF_IT, ids=lambda file: file.name)
def test_it_imports_the_standard_library_and_its_own_files_alone(file: Path) -> None:
    own = {file.stem for file in FILES_OF_IT}
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            assert node.level == 1
            assert {*names} <= own
            assert file != SOURCE, "it must run alone"
        elif isinstance(node, ast.ImportFrom):
            assert node.module in sys.stdlib_module_names | {"collections.abc"}


@pytest.mark.parametrize("file", FILES_OF_IT, ids=lambda file: file.name)
def test_a_file_can_be_read_by_an_auditor(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= 300


def test_the_page_says_how_long_each_file_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text("utf-8")
    rows = re.findall(r"^\| \[`(\w+\.py)`\]\(\S+\) \| (\d+) \|", page, re.MULTILINE)
    lengths = {file.name: len(file.read_text("utf-8").splitlines()) for file in FILES_OF_IT}
    del lengths["__init__.py"]
    assert {name: int(lines) for name, lines in rows} == lengths


@pytest.mark.process
def test_the_first_file_proves_the_main_claim_alone(tmp_path: Path) -> None:
    alone = tmp_path / "checker.py"
    alone.write_bytes(SOURCE.read_bytes())

    def check(*files: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", alone, "x", *files],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not done.stderr
        return done.returncode, json.loads(done.stdout)

    export = honest()
    export.write(tmp_path / "x")
    export.splunk(tmp_path / "splunk.csv")
    status, report = check("splunk.csv")
    assert (status, report["whole"], report["findings"]) == (0, True, [])
    assert report["heads"] == {"given": 5, "fit": 5, "absent": None, "contradict": 0}
    edit(tmp_path / "x", lambda lines: [line.replace(b"poll", b"pull") for line in lines])
    status, report = check("splunk.csv")
    assert (status, report["heads"]["fit"]) == (1, 0)
    assert [each["code"] for each in report["findings"]] == ["rewritten"]
    assert set(report) == {*REPORT, "lines"}
    assert all(set(each) == FINDING for each in report["findings"])
    assert report["findings"][0]["do"] == program.DO["rewritten"]


@pytest.mark.process
def test_wrong_usage_of_the_first_file_is_one_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for words in ([], ["missing"], ["x", "missing"]):
        done = subprocess.run(
            [sys.executable, "-I", "-S", SOURCE, *words],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), words


@pytest.mark.process
def test_the_zipapp_runs_where_auditrelay_is_not(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    made = tmp_path / "auditrelay-evidence.pyz"
    subprocess.run(
        ["make", "--no-print-directory", "evidence-checker", f"CHECKER={made}"],
        cwd=root, check=True, timeout=60,
    )  # fmt: skip
    export = honest()
    export.write(tmp_path / "x")
    export.splunk(tmp_path / "splunk.csv")
    done = subprocess.run(
        [sys.executable, "-I", "-S", made, "x", "--witness", "splunk.csv"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "whole: nothing before entry 15" in done.stdout
    edit(tmp_path / "x", lambda lines: lines[:-3])
    done = subprocess.run(
        [sys.executable, "-I", "-S", made, "x", "--witness", "splunk.csv"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "BAD  cut" in done.stdout


def test_the_page_has_every_code_with_what_to_do() -> None:
    page = (Path(__file__).parents[2] / "docs/evidence.md").read_text("utf-8")
    table = page.partition("\n## Codes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*`) \| .+ \| (.+) \|$", table, flags=re.MULTILINE)
    listed = {code for codes, do in rows for code in re.findall(r"`([a-z_]+)`", codes) if do}
    said = {*program.DO, *replay.NOTES.values(), *check_report.CODES}
    for file in FILES_OF_IT:
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func).rpartition(".")[2]
                at = {"say": 1, "Stop": 0}.get(name)
                code = None if at is None else call.args[at]
                if isinstance(code, ast.Constant):
                    said.add(str(code.value))
    assert len(said) > 20
    assert said == listed
