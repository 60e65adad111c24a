"""``auditrelay evidence`` over a state that a daemon has made, and ``coverage --check``."""

import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, missing, sinks, sources
from tests.support.stores import NOON, opened, seal
from typer.testing import CliRunner

from auditrelay.cli import cli
from auditrelay.evidence.heads import Head, Keys
from auditrelay.sandbox import Sandbox
from auditrelay.store.sqlite.state_dir import prepare

pytestmark = pytest.mark.process

SECRET = bytes(range(32))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        sandbox.bland.fill(30, now - timedelta(minutes=50), now - timedelta(minutes=5))
        yield sandbox


@pytest.fixture
async def sealed(sandbox: Sandbox, tmp_path: Path) -> Path:
    """The configuration of a state with 30 events that every sink has, and a seal."""
    config = configure(
        tmp_path,
        sources(sandbox, of=["bland"]),
        sinks(sandbox),
        evidence={"key": SECRET.hex()},
    )
    assert (await command(config, "run", "--once")).status == 0
    # What the first run has delivered is recorded by the seal of the second.
    assert (await command(config, "run", "--once")).status == 0
    return config


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def as_searched(document: Any) -> Any:
    """Return what the documented search takes of a *document* that was indexed a minute ahead."""
    return {
        "auditrelay.uid": document["auditrelay"]["uid"],
        "event.hash": document["event"]["hash"],
        "event.ingested": (datetime.now(UTC) + timedelta(minutes=1)).isoformat(),
    }


async def test_the_newest_head_is_one_word_and_the_public_key_one_line(sealed: Path) -> None:
    ended = await command(sealed, "evidence", "head")
    assert (ended.status, ended.stdout.count("\n")) == (0, 1)
    head = Head.parse(ended.stdout.strip())
    public = await command(sealed, "evidence", "head", "--public")
    assert base64.b64decode(public.stdout) == Keys(SECRET).public
    assert head.is_signed_by(Keys(SECRET).public)


async def test_an_export_is_checked_against_a_head_that_left_before(
    sandbox: Sandbox, sealed: Path, tmp_path: Path
) -> None:
    out, key = tmp_path / "export", tmp_path / "key.pub"
    ended = await command(sealed, "evidence", "export", "--out", str(out), "--uids")
    assert ended.status == 0, ended.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    entries, heads, uids = (manifest[name] for name in ("entries", "heads", "uids"))
    assert ended.stdout == f"{entries} entries, {heads} heads, {uids} uids: {out}\n"
    assert manifest["entries"] == len(lines(out / "journal.ndjson"))
    key.write_text((await command(sealed, "evidence", "head", "--public")).stdout)
    witness, siem = tmp_path / "witness.ndjson", tmp_path / "siem.ndjson"
    stored = sandbox.elastic.stored
    documents = [*stored.documents, *stored.heads]
    witness.write_text("".join(json.dumps(each) + "\n" for each in documents))
    siem.write_text("".join(json.dumps(as_searched(each)) + "\n" for each in documents))
    arguments = ["--witness", str(witness), "--siem", f"elastic={siem}", "--key", str(key)]
    result = CliRunner().invoke(cli, ["evidence", "check", str(out), *arguments, "--json"])
    report = json.loads(result.stdout)
    # The newest head is in the SIEM, and becomes an accepted event with the next seal.
    # The newest head is no stranger in the SIEM, though only the next entry accepts its event.
    assert {each["code"] for each in report["findings"]} <= {"configuration"}
    assert (result.exit_code, report["whole"]) == (0, True)
    assert report["heads"]["fit"] == report["heads"]["given"] > 0


async def test_an_export_beside_a_running_service_is_one_snapshot(
    sandbox: Sandbox, sealed: Path, tmp_path: Path
) -> None:
    async with Daemon(sealed) as daemon:
        await eventually(lambda: not missing(sandbox))
        ended = await command(sealed, "evidence", "export", "--out", str(tmp_path / "export"))
        assert ended.status == 0, ended.stderr
        checked = await command(sealed, "coverage", "--check")
        assert checked.status == 0, checked.stdout
        assert await daemon.end() == 0
    result = CliRunner().invoke(cli, ["evidence", "check", str(tmp_path / "export")])
    assert result.exit_code == 0, result.stdout
    assert "no_witness" in result.stdout


@pytest.mark.parametrize(("option", "uids"), [("--from", 30), ("--to", 0)])
async def test_uids_are_chosen_by_the_time_of_their_seal(
    sealed: Path, tmp_path: Path, option: str, uids: int
) -> None:
    words = ("evidence", "export", "--out", str(tmp_path / "export"), "--uids", option, "1h")
    ended = await command(sealed, *words)
    assert ended.status == 0, ended.stderr
    # Besides those of the vendor only heads, whose events have uids as well.
    pages = lines(tmp_path / "export" / "uids.ndjson")
    found = sum(len(base64.b64decode(page["keys"])) // 28 for page in pages)
    assert uids <= found <= (uids and uids + 2)
    assert f", {found} uids: " in ended.stdout


async def test_what_is_there_is_not_overwritten(sealed: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "export")
    assert (await command(sealed, "evidence", "export", "--out", out)).status == 0
    again = await command(sealed, "evidence", "export", "--out", out)
    assert (again.status, again.stdout) == (2, "")
    assert "journal.ndjson exists already; not overwritten" in again.stderr
    blocked = await command(sealed, "evidence", "export", "--out", str(sealed / "no"))
    assert blocked.status == 1
    assert "cannot be written" in blocked.stderr


async def test_one_event_is_proved_and_checked(sealed: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state" / "state.db")) as db:
        uid = db.execute("select substr(key, 9) from known").fetchone()[0].hex()
    proof, witness = tmp_path / "proof.json", tmp_path / "heads.txt"
    made = await command(sealed, "evidence", "prove", uid, "--out", str(proof))
    assert made.status == 0, made.stderr
    assert made.stdout.startswith(f"event {uid} of bland, ")
    for sink in ("splunk", "elastic", "datadog"):
        assert f"{sink} took it by " in made.stdout
    witness.write_text((await command(sealed, "evidence", "head")).stdout)
    arguments = ["evidence", "check", str(proof), "--witness", str(witness)]
    checked = CliRunner().invoke(cli, arguments)
    assert checked.exit_code == 0, checked.stdout
    assert f"{uid} of bland: accepted" in checked.stdout
    forged = json.loads(proof.read_text()) | {"uid": "0" * 40}
    proof.write_text(json.dumps(forged))
    assert CliRunner().invoke(cli, arguments).exit_code == 1


async def test_what_cannot_be_proved_says_why(sealed: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "proof.json"))
    bad = await command(sealed, "evidence", "prove", "aaf6", *out)
    assert (bad.status, "is not 40 hexadecimal digits" in bad.stderr) == (2, True)
    unknown = await command(sealed, "evidence", "prove", "0" * 40, *out)
    assert (unknown.status, "is known: it was never accepted" in unknown.stderr) == (1, True)
    assert not (tmp_path / "proof.json").exists()


@pytest.mark.parametrize("service", [True, False], ids=["service", "alone"])
async def test_a_restore_is_recorded_in_the_next_entry(
    sandbox: Sandbox, sealed: Path, tmp_path: Path, service: bool
) -> None:
    words = ("evidence", "restored", "--reason", "disk died")
    if service:
        async with Daemon(sealed) as daemon:
            await eventually(lambda: not missing(sandbox))
            ended = await command(sealed, *words)
            assert await daemon.end() == 0
    else:
        ended = await command(sealed, *words)
    assert (ended.status, ended.stderr) == (0, "")
    out = tmp_path / "export"
    assert (await command(sealed, "evidence", "export", "--out", str(out))).status == 0
    facts = [fact for entry in lines(out / "journal.ndjson") for fact in entry["facts"]]
    (recorded,) = [fact for fact in facts if fact["fact"] == "restored"]
    assert recorded["reason"] == "disk died"


async def test_the_live_state_is_compared_with_heads_from_outside(
    sealed: Path, tmp_path: Path
) -> None:
    word = (await command(sealed, "evidence", "head")).stdout.strip()
    assert (await command(sealed, "coverage", "--check", "--head", word)).status == 0
    head = Head.parse(word)
    forged = Head(head.log, head.size, bytes(32)).word
    later = Head(head.log, head.size + 1, head.root).word
    foreign = Head("0" * 32, head.size, head.root).word
    file = tmp_path / "heads.csv"
    for wrong, code in ((forged, "rewritten"), (later, "cut"), (foreign, "head_foreign")):
        file.write_text(f"_time,description\n1,Ledger sealed: {word}\n2,{wrong}\n")
        ended = await command(sealed, "coverage", "--check", "--head", str(file))
        assert (ended.status, f"BAD  {code}: {file}" in ended.stdout) == (1, True), ended.stdout
    none = await command(sealed, "coverage", "--check", "--head", str(sealed))
    assert (none.status, "there is no head" in none.stderr) == (2, True)
    cut = await command(sealed, "coverage", "--check", "--head", word[:40])
    assert (cut.status, "not a head" in cut.stderr) == (2, True)


async def test_a_configured_source_of_which_nothing_is_known_is_a_finding(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tables = sources(sandbox, of=["bland", "cekura"]), sinks(sandbox)
    config = configure(tmp_path, *tables)
    prepare(tmp_path / "state")
    store = await opened(tmp_path / "state")
    await store.start_source("bland", NOON)
    await seal(store)
    await store.close()

    def checked(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["-c", str(config), "coverage", *words, "--check"])
        return result.exit_code, result.stdout.partition("\n")[0] or str(result.exception)

    unknown = "BAD  nothing: source cekura: it is configured, and nothing is known of it"
    assert checked() == checked("cekura") == (1, unknown)
    assert checked("bland")[0] == 0
    assert checked("okta")[1].startswith("there is no source 'okta'")
    tables[0]["cekura"]["enabled"] = False
    configure(tmp_path, *tables)
    assert checked()[0] == 0


async def test_a_head_that_is_too_old_is_a_finding(sealed: Path) -> None:
    young = await command(sealed, "coverage", "--check", "--max-age", "3h")
    assert young.status == 0, young.stdout
    old = await command(sealed, "coverage", "--check", "--max-age", "0s")
    assert (old.status, "BAD  downtime: the newest head is of" in old.stdout) == (1, True)
    wrong = await command(sealed, "coverage", "--check", "--max-age", "soon")
    assert (wrong.status, "--max-age: " in wrong.stderr) == (2, True)


async def test_without_evidence_there_is_nothing_to_give_or_to_check(tmp_path: Path) -> None:
    config = configure(tmp_path, {}, {})
    assert (await command(config, "evidence", "head")).status == 1
    public = await command(config, "evidence", "head", "--public")
    assert (public.status, "evidence.key: is not set" in public.stderr) == (2, True)
    export = await command(config, "evidence", "export", "--out", str(tmp_path / "export"))
    assert (export.status, "there is no state in" in export.stderr) == (1, True)
    assert (await command(config, "coverage", "--check")).status == 1
    assert CliRunner().invoke(cli, ["evidence", "check", str(tmp_path)]).exit_code == 1
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "state.db").write_bytes(b"no database" * 1000)
    assert (await command(config, "evidence", "head")).status == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", "--out", "x", "--from", "1h"], "add --uids"),
        (["export", "--out", "x", "--uids", "--from", "1h", "--to", "2h"], "later than --from"),
        (["export", "--out", "x", "--uids", "--from", "noon"], "is not a time"),
        (["restored", "--reason", " "], "--reason: must be"),
        (["restored", "--reason", "a\nb"], "--reason: must be"),
    ],
)
async def test_wrong_usage_is_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    ended = await command(configure(tmp_path, {}, {}), "evidence", *words)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert says in ended.stderr


async def test_what_a_vendor_shows_an_auditor_is_compared_with_what_was_read(
    sandbox: Sandbox, sealed: Path, tmp_path: Path
) -> None:
    auditor = tmp_path / "auditor"
    auditor.mkdir()
    own = configure(auditor, sources(sandbox, of=["bland"]), sinks(sandbox))
    listed, out = tmp_path / "vendor.ndjson", tmp_path / "export"
    words = ("verify", "bland", "--from", "2h", "--list", str(listed))
    ended = await command(own, *words)
    assert ended.status == 0, ended.stderr
    assert f": 30 events: {listed}" in ended.stdout
    head, *events = lines(listed)
    assert (head["source"], len(events)) == ("bland", 30)
    assert all({*each} == {"time", "uid", "raw_sha256"} for each in events)
    again = await command(own, *words)
    assert (again.status, "exists already" in again.stderr) == (2, True)
    export = await command(sealed, "evidence", "export", "--out", str(out), "--uids")
    assert export.status == 0
    arguments = ["evidence", "check", str(out), "--vendor", str(listed), "--json"]
    report = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert [each for each in report["findings"] if each["code"] == "vendor"] == []
    assert report["whole"]
    # He hides an event from the auditor: the coverage of that time is another.
    hidden = listed.read_text("ascii").splitlines(keepends=True)
    listed.write_text("".join(hidden[:5] + hidden[6:]), "ascii")
    report = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert {each["code"] for each in report["findings"] if each["level"] == "bad"} == {"vendor"}


async def test_a_key_that_is_not_in_force_yet_is_one_finding(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tables = sources(sandbox, of=["bland"]), sinks(sandbox)
    assert (await command(configure(tmp_path, *tables), "run", "--once")).status == 0
    config = configure(tmp_path, *tables, evidence={"key": SECRET.hex()})
    checked = await command(config, "coverage", "--check", "--json")
    assert checked.status == 1
    assert [each["code"] for each in json.loads(checked.stdout)["findings"]] == ["key"]
    assert (await command(config, "run", "--once")).status == 0
    assert (await command(config, "coverage", "--check")).status == 0


async def test_a_check_without_the_key_of_the_state_says_what_it_leaves_out(
    sealed: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    config = configure(tmp_path, sources(sandbox, of=["bland"]), sinks(sandbox))
    checked = await command(config, "coverage", "--check")
    assert checked.status == 0, "nothing contradicts the entries"
    first, *_ = checked.stdout.splitlines()
    assert first.startswith("note key: the state has tags of a key, and the configuration has none")
    assert "intact:" in checked.stdout


async def test_a_uid_that_was_edited_is_unproved(sealed: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state" / "state.db")) as db:
        edit = "update known set position = 9999 where key = (select max(key) from known)"
        assert db.execute(edit).rowcount == 1
        db.commit()
    ended = await command(sealed, "verify", "bland", "--from", "55m")
    assert ended.status == 1
    assert "UNPROVED: known, and the evidence does not say that they were accepted" in ended.stdout
    assert "30 unproved" in ended.stdout, "all of their entry"


async def test_restored_needs_a_state(tmp_path: Path) -> None:
    config = configure(tmp_path, {}, {})
    ended = await command(config, "evidence", "restored", "--reason", "disk died")
    assert (ended.status, "there is no state in" in ended.stderr) == (1, True)
    assert not (tmp_path / "state").exists()
