"""
The seven promises of the README, each in its own words.

The daemon is a child process, everything goes over sockets, and the assertions use the records of
the doubles: what the vendors made, what each intake really stored.
"""

import asyncio
import contextlib
import json
import re
import shutil
import signal
import sqlite3
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from isal import isal_zlib
from tests.support.daemon import (
    Daemon,
    command,
    configure,
    eventually,
    intakes,
    made,
    missing,
    sinks,
    sources,
)

from auditrelay.sandbox import Sandbox, Trap, faults
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.vendors import cekura

pytestmark = pytest.mark.process


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


def fill(sandbox: Sandbox, count: int) -> None:
    """Make *count* records, shared by both vendors, over most of the last hour."""
    now = datetime.now(UTC)
    for vendor in (sandbox.cekura, sandbox.bland):
        vendor.fill(count // 2, now - timedelta(minutes=50), now - timedelta(minutes=1))


async def dead_letters(config: Path) -> list[dict[str, Any]]:
    ended = await command(config, "dead-letters", "list", "--json")
    assert ended.status == 0, ended.stderr
    letters: list[dict[str, Any]] = json.loads(ended.stdout)
    return letters


async def delivered(daemon: Daemon, but: dict[str, int]) -> bool:
    """Return whether everything is delivered *but* so many events, by the name of the sink."""
    rows = (await daemon.get("/api/status")).json()["sinks"]
    return {row["name"]: row["backlog_events"] for row in rows} == but


def first_of(count: int, *, after: int = 0) -> Callable[[int, str], bool]:
    """Choose the first *count* documents that arrive behind *after* others in their batch."""
    chosen: set[str] = set()

    def is_chosen(position: int, uid: str) -> bool:
        if len(chosen) < count and position >= after:
            chosen.add(uid)
        return uid in chosen

    return is_chosen


# --- 1


async def test_nothing_is_lost(tmp_path: Path, sandbox: Sandbox) -> None:
    """Every event reaches every sink, or is in its dead letters, whatever fails."""
    fill(sandbox, 400)
    vendors = (sandbox.cekura, sandbox.bland)
    config = configure(
        tmp_path, sources(sandbox, page_size=20), sinks(sandbox, batch_events=25, timeout="2s")
    )
    # what vendors do
    for vendor in vendors:
        vendor.faults.add(faults.truncated(), nth=3)
        vendor.faults.add(faults.html(200), nth=5)
        vendor.faults.add(faults.too_many(retry_after=1), nth=7)
        vendor.faults.add(faults.reset(), nth=9)
        vendor.faults.add(faults.answer(500, b"oops"), path="*", when=_page(6), times=5)
    gone = next(iter(sandbox.cekura.records.ids()))
    sandbox.cekura.before_page[3] = lambda: sandbox.cekura.history.remove(gone)
    # what intakes do
    sandbox.splunk.faults.add(faults.html(503), method="POST", nth=(2, 3))
    sandbox.splunk.faults.add(faults.store_then_reset(), method="POST", nth=2)
    sandbox.splunk.script(12, after=3)  # takes three events of a batch and blames the fourth
    sandbox.datadog.faults.add(faults.hang(), method="POST", nth=2)
    sandbox.datadog.faults.add(faults.answer(400, b'{"errors":[]}'), method="POST", nth=4)
    sandbox.elastic.fail_items(429, times=7)
    sandbox.elastic.fail_items(
        400, where=first_of(2), times=None, kind="document_parsing_exception"
    )

    dead: dict[str, set[str]] = {name: set() for name in intakes(sandbox)}

    async def settled(*sinks: str) -> bool:
        for letter in await dead_letters(config):
            assert letter["reason"]
            dead[letter["sink"]].add(letter["native_id"])
        return not any(
            set(intakes(sandbox)[name].lost(wanted(sandbox, gone))) - dead[name] for name in sinks
        )

    daemon = Daemon(config)
    await daemon.start()
    await eventually(lambda: sandbox.elastic.stored.total > 20)
    await daemon.end(signal.SIGKILL)
    await sandbox.datadog.stop()
    async with daemon:
        for vendor in vendors:
            vendor.add(datetime.now(UTC))
        await eventually(lambda: settled("splunk"))
        await daemon.end(signal.SIGKILL)
    await sandbox.datadog.start()
    async with daemon:
        await eventually(lambda: settled(*dead))
        assert await daemon.end() == 0
    assert len(dead["elastic"]) == 2
    assert len(dead["splunk"]) <= 1, "a kill may come between the blame and its dead letter"
    assert not dead["datadog"]
    assert "Traceback" not in daemon.log


def wanted(sandbox: Sandbox, gone: str) -> set[str]:
    """Return what the vendors made, except for the record that was deleted during a walk."""
    return made(sandbox) - {gone}


def _page(number: int) -> Any:
    return lambda request: request.query.get("page") == str(number)


# --- 2


async def test_nothing_is_repeated_that_can_be_recognised_as_the_same(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """Overlap, resweeps and restarts forward an event once."""
    fill(sandbox, 60)
    lives: tuple[dict[str, Any], ...] = (
        {"overlap": "50m"},  # every window starts that much early
        {"overlap": "1s", "resweep": ["2s"]},  # all is read a second time after 2 seconds
    )
    for life in lives:
        config = configure(
            tmp_path, sources(sandbox, page_size=10, **life), sinks(sandbox, batch_events=10)
        )
        async with Daemon(config) as daemon:
            sandbox.bland.add(datetime.now(UTC))
            event = "window_reswept" if "resweep" in life else "window_collected"
            await eventually(
                lambda: sum(line["events"] - line["new"] for line in daemon.logged(event)) > 60  # noqa: B023  # it is awaited here
            )
            await eventually(lambda: not missing(sandbox))
            assert await daemon.end() == 0
    for name, stored in intakes(sandbox).items():
        assert set(stored.by_native_id.values()) == {1}, name
        assert stored.total == len(made(sandbox)), name


async def test_an_event_has_one_uid_for_life_whatever_its_source_is_called_and_wherever_it_is_read(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox, 20)
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        tables = {f"{name}-{key}": table for key, table in sources(sandbox).items()}
        config = configure(folder, tables, sinks(sandbox))
        assert (await command(config, "run", "--once")).status == 0
    assert sandbox.elastic.stored.total == 20
    assert set(sandbox.splunk.stored.by_uid.values()) == {2}
    assert sandbox.splunk.stored.by_uid == sandbox.datadog.stored.by_uid


@pytest.mark.parametrize(
    "fault",
    [faults.store_then_reset(), faults.answer(500, process=True), faults.html(504, process=True)],
    ids=["no reply", "500", "a gateway's 504"],
)
async def test_a_possible_duplicate_is_counted_where_the_outcome_is_unknown(
    tmp_path: Path, sandbox: Sandbox, fault: faults.Action
) -> None:
    fill(sandbox, 20)
    for intake in (sandbox.splunk, sandbox.datadog, sandbox.elastic):
        intake.faults.add(fault, method="POST", when=lambda it: len(it.body) > 500)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox, concurrency=1))
    async with Daemon(config) as daemon:
        await eventually(lambda: not missing(sandbox))
        await eventually(lambda: delivered(daemon, {"splunk": 0, "datadog": 0, "elastic": 0}))
        for name, stored in intakes(sandbox).items():
            extra = sum(stored.by_native_id.values()) - len(stored.by_native_id)
            # The head of the seal at the start may be in the batch of which nothing is known.
            extra += len(stored.heads) - len(set(map(json.dumps, stored.heads)))
            counted = await daemon.metric("auditrelay_events_possible_duplicate_total", sink=name)
            assert counted == extra, name
            assert bool(extra) == (name != "elastic"), name


# --- 3


async def test_late_is_not_lost(tmp_path: Path, sandbox: Sandbox) -> None:
    """An event that appears after its window was read comes with its lateness, and is counted."""
    fill(sandbox, 10)
    config = configure(
        tmp_path, sources(sandbox, overlap="1s", resweep=["4s"]), sinks(sandbox, linger="0s")
    )
    async with Daemon(config) as daemon:
        await eventually(lambda: not missing(sandbox))
        at = datetime.now(UTC)

        def read_past_it() -> bool:
            ends = [line["end"] for line in daemon.logged("window_collected", source="bland")]
            return datetime.fromisoformat(ends[-1]) > at + timedelta(seconds=1.5)

        await eventually(read_past_it)
        late = sandbox.bland.add(at)
        await eventually(lambda: not missing(sandbox), what="the late one is found")
        (found,) = daemon.logged("late_events_found", source="bland")
        assert found["count"] == 1
        assert await daemon.metric("auditrelay_events_late_total", source="bland") == 1
        histogram = "auditrelay_event_lateness_seconds"
        assert await daemon.metric(f"{histogram}_count", source="bland") >= 1
    for name, stored in intakes(sandbox).items():
        (document,) = [text for text in map(json.dumps, stored.documents) if late in text]
        lateness = re.search(r'"late_by_s": (\d+)', document)
        assert lateness is not None, name
        assert 1 <= int(lateness[1]) <= 40, name
        on_time = [text for text in map(json.dumps, stored.documents) if late not in text]
        assert not any("late_by_s" in text for text in on_time), name


# --- 4


async def test_no_sink_holds_another_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """One never answers and one rejects an event; the third still gets everything."""
    fill(sandbox, 60)
    splunk = sandbox.splunk
    splunk.faults.add(faults.hang(), method="POST", times=None)
    sandbox.elastic.fail_items(400, kind="document_parsing_exception")
    config = configure(tmp_path, sources(sandbox), sinks(sandbox, timeout="3s", batch_events=10))
    async with Daemon(config) as daemon:
        await eventually(lambda: daemon.logged("event_dead_lettered"))
        for _ in range(2):
            sandbox.bland.add(datetime.now(UTC))
            await eventually(lambda: not sandbox.datadog.stored.lost(made(sandbox)))
        await eventually(lambda: len(sandbox.elastic.stored.lost(made(sandbox))) == 1)
        assert splunk.stored.total == 0

        # What waits is every record, and the head of the seal at the start.
        await eventually(lambda: delivered(daemon, {"splunk": 63, "datadog": 0, "elastic": 0}))
        splunk.faults.clear()
        await eventually(lambda: not splunk.stored.lost(made(sandbox)))
        assert await daemon.end() == 0
    (letter,) = await dead_letters(config)
    assert letter["sink"] == "elastic"
    assert sandbox.elastic.stored.lost(made(sandbox)) == [letter["native_id"]]


async def test_a_request_that_hangs_holds_up_no_other_sink(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """What one sink waits for, no other one waits for: here it never gives up."""
    hanging: list[Request] = []

    def hangs(request: Request) -> bool:
        hanging.append(request)
        return True

    sandbox.splunk.faults.add(faults.hang(), method="POST", times=None, when=hangs)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox, timeout="10m"))
    async with Daemon(config):
        for _ in range(2):  # the second one while the first one hangs
            sandbox.bland.add(datetime.now(UTC))
            await eventually(
                lambda: (
                    not sandbox.datadog.stored.lost(made(sandbox))
                    and not sandbox.elastic.stored.lost(made(sandbox))
                ),
            )
            await eventually(lambda: hanging)
        assert sandbox.splunk.stored.total == 0


# --- 5


async def test_no_silent_gap(tmp_path: Path, sandbox: Sandbox) -> None:
    """A declared gap is in the ledger, the metrics, the log, and an event in every sink."""
    now = datetime.now(UTC)
    given_up = sandbox.bland.fill(5, now - timedelta(hours=5), now - timedelta(hours=4))
    kept = sandbox.bland.fill(5, now - timedelta(minutes=100), now - timedelta(minutes=1))
    tables = sources(sandbox, initial_lookback="6h", catch_up_limit="2h")
    del tables["cekura"]
    config = configure(tmp_path, tables, sinks(sandbox))
    async with Daemon(config) as daemon:
        stored = intakes(sandbox)
        await eventually(lambda: not any(each.lost(kept) for each in stored.values()))
        await eventually(lambda: all(each.total == 6 for each in stored.values()))
        seconds = await daemon.metric(
            "auditrelay_gap_seconds_total", source="bland", reason="catch_up_limit"
        )
        assert seconds == pytest.approx(4 * 3600, abs=60)
        (line,) = daemon.logged("gap_declared", source="bland", reason="catch_up_limit")
        assert line["level"] == "error"
        assert "gap" in (await daemon.get("/")).text or "not read" in (await daemon.get("/")).text
        assert await daemon.end() == 0
    for name, each in stored.items():
        (notice,) = [text for text in map(json.dumps, each.documents) if "catch_up_limit" in text]
        assert line["start"][:19] in notice, name
        assert line["end"][:19] in notice, name
        assert each.lost(given_up) == given_up, name
    (row,) = json.loads((await command(config, "status", "--json")).stdout)["sources"]
    assert row["gap_seconds"] == pytest.approx(seconds, abs=0.001)
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "state.db")) as state:
        ledger = state.execute("select start, end, gap from coverage order by start").fetchall()
    assert [gap for _, _, gap in ledger] == ["catch_up_limit", *(None for _ in ledger[1:])]
    assert all(one[1] == next_[0] for one, next_ in pairwise(ledger))


# --- 6


async def test_bounded_disk_stops_at_max_bytes_and_then_polling_pauses(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox, 800)
    await sandbox.splunk.stop()
    most = 40_000
    config = configure(
        tmp_path,
        sources(sandbox, page_size=20),
        sinks(sandbox, batch_events=50),
        spool={"max_bytes": most},
    )
    async with Daemon(config) as daemon:
        await eventually(lambda: len(daemon.logged("polling_paused")) == 2)
        spool = (await daemon.get("/api/status")).json()["spool"]
        assert 0 < spool["bytes"] <= spool["max_bytes"] == most
        # delivery goes on, and has come to its end
        collected = sum(
            [
                await daemon.metric("auditrelay_events_collected_total", source=source)
                for source in ("cekura", "bland")
            ]
        )
        assert 0 < collected < 800
        await eventually(lambda: sandbox.elastic.stored.total == collected)
        asked = sandbox.bland.requests + sandbox.cekura.requests
        assert (await daemon.get("/healthz")).status_code == 200
        await sandbox.splunk.start()
        await eventually(lambda: not missing(sandbox), what="polling goes on")
        assert sandbox.bland.requests + sandbox.cekura.requests > asked
        assert await daemon.end() == 0
    for name, stored in intakes(sandbox).items():
        assert stored.total == 800, name


def peak_memory(pid: int) -> int:
    """Return the peak memory of the process, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert peak is not None
    return int(peak[1]) * 1024


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="the resident set is read from /proc, which only Linux has",
)
async def test_bounded_memory_does_not_grow_with_the_window(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    async def most_memory(count: int) -> int:
        now = datetime.now(UTC)
        span = timedelta(minutes=45)
        sandbox.cekura.records = cekura.generated(count, now - timedelta(minutes=50), span, 600)
        sandbox.splunk.stored.total = 0
        sandbox.splunk.lean = True
        folder = tmp_path / str(count)
        folder.mkdir()
        config = configure(
            folder,
            {"cekura": sources(sandbox)["cekura"]},
            {"splunk": sinks(sandbox)["splunk"]},
        )
        async with Daemon(config) as daemon:
            await eventually(lambda: sandbox.splunk.stored.total == count)
            peak = peak_memory(daemon.process.pid)
            assert await daemon.end() == 0
        return peak

    # Kept in memory, the difference would be more than 60 MB; the hashes of the uids of one walk,
    # against a vendor that shows a page twice, take 4.
    assert await most_memory(50_000) - await most_memory(10_000) < 20 << 20


# --- 7


SECRETS = {
    "cekura": "cekuraKey-Q7x/9+z==",
    "bland": "blandKey_w3r1 2".replace(" ", "."),
    "splunk": "77777777-abcd-4000-8000-0000000000ee",
    "datadog": "ddKey0123456789abcdef0123456789ab",
    "elastic": "esPass!word&<7>",
}
RECORDED = {
    "password": "hunter2-in-a-record",
    "api_key": "sk-live-recorded-4242",
    "nested": {"client_secret": "oauth-recorded-9f9f"},
    "headers": [{"Authorization": "Bearer bearer-recorded-8e8e"}],
}
IN_RECORDS = (
    "hunter2-in-a-record",
    "sk-live-recorded-4242",
    "oauth-recorded-9f9f",
    "bearer-recorded-8e8e",
)


def _echo(request: Request, response: Response) -> Response:
    """Answer like a careless server: echo the whole request."""
    said = json.dumps({"text": str(request.headers), "code": 9, "errors": [str(request.headers)]})
    return Response(503, said.encode(), {"Content-Type": "application/json"})


def _spellings(secret: str) -> Iterable[bytes]:
    yield secret.encode()
    yield json.dumps(secret)[1:-1].encode()


def _state(folder: Path) -> bytes:
    """Return every byte of the state, and its compressed contents decompressed."""
    parts = [path.read_bytes() for path in folder.iterdir()]
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as state:
        parts += [
            isal_zlib.decompress(blob[1:]) for (blob,) in state.execute("select events from spool")
        ]
        parts += [blob for (blob,) in state.execute("select event from dead_letter")]
    return b"\n".join(parts)


def with_secrets(folder: Path, sandbox: Sandbox) -> Path:
    """Return a configuration with secrets of every origin, and set them in the doubles."""
    keys = folder / "keys"
    keys.mkdir()
    for name, secret in SECRETS.items():
        (keys / name).write_text(secret + "\n")
        getattr(sandbox, name).rotate(secret)
    source_tables, sink_tables = sources(sandbox), sinks(sandbox)
    source_tables["cekura"]["api_key"] = f"${{file:{keys / 'cekura'}}}"
    source_tables["bland"]["api_key"] = "${env:BLAND_KEY}"
    sink_tables["splunk"]["token"] = SECRETS["splunk"]
    sink_tables["datadog"]["api_key"] = "${credential:datadog}"
    del sink_tables["elastic"]["api_key"]
    sink_tables["elastic"] |= {"username": "relay", "password": f"${{file:{keys / 'elastic'}}}"}
    sandbox.elastic.username = "relay"
    return configure(folder, source_tables, sink_tables, log={"level": "debug"})


async def test_none_of_our_secrets_leaves(tmp_path: Path, sandbox: Sandbox) -> None:
    """Not in logs, errors, metrics, spool, dead letters, nor over a redirect."""
    config = with_secrets(tmp_path, sandbox)
    now = datetime.now(UTC)
    for number in range(3):
        at = now - timedelta(minutes=10 - number)
        sandbox.bland.add(at, metadata=RECORDED)
        sandbox.cekura.add(at, details=RECORDED, access_token="hunter2-in-a-record")
    sandbox.elastic.fail_items(
        400,
        where=first_of(1, after=1),  # the head of the seal at the start may be before it
        times=None,
        kind="document_parsing_exception",
        reason=f"cannot parse {SECRETS['elastic']}",
    )
    environ = {"BLAND_KEY": SECRETS["bland"], "CREDENTIALS_DIRECTORY": str(tmp_path / "keys")}
    daemon = Daemon(config, environ=environ)
    seen: list[str] = []
    async with Trap() as trap:
        doubles = (sandbox.cekura, sandbox.bland, sandbox.splunk, sandbox.datadog, sandbox.elastic)
        for double in doubles:
            double.faults.add(faults.redirect(trap.url, 307), nth=1)
            double.faults.add(faults.rewrite(_echo), nth=2)
            double.faults.add(faults.answer(401, b'{"detail":"no"}'), nth=3)
        async with daemon:
            seen += [(await daemon.get(path)).text for path in ("/readyz", "/", "/api/status")]
            await eventually(lambda: daemon.logged("sink_held") and daemon.logged("source_held"))
            paths = ("/metrics", "/", "/api/status", "/readyz")
            seen += [(await daemon.get(path)).text for path in paths]
            everything = made(sandbox)
            await eventually(lambda: daemon.logged("event_dead_lettered"))
            await eventually(
                lambda: (
                    len(sandbox.elastic.stored.lost(everything)) == 1
                    and not sandbox.splunk.stored.lost(everything)
                    and not sandbox.datadog.stored.lost(everything)
                ),
            )
            assert await daemon.end() == 0
        assert trap.caught == []
    for words in (["dead-letters", "list"], ["dead-letters", "show", "1"], ["status"], ["schema"]):
        ended = await command(config, *words, environ=environ)
        assert ended.status == 0, ended.stderr
        seen += [ended.stdout, ended.stderr]
    seen.append(daemon.log)
    state = _state(tmp_path / "state")
    stored = {
        name: json.dumps(each.documents, ensure_ascii=False).encode()
        for name, each in intakes(sandbox).items()
    }
    places = {"shown": "\n".join(seen).encode(), "state": state, **stored}
    assert b"a3c1b6de" in state, "the state was not read"
    assert all(b"a3c1b6de" in documents for documents in stored.values())
    for place, content in places.items():
        for secret in (*SECRETS.values(), *IN_RECORDS):
            assert not any(text in content for text in _spellings(secret)), (place, secret)


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return a server's TLS context with a self-signed certificate."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is needed to make a certificate")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return tls


async def test_no_secret_leaves_to_a_peer_with_an_untrusted_certificate(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    tls = self_signed(tmp_path)
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    fill(sandbox, 10)
    source_tables, sink_tables = sources(sandbox), sinks(sandbox)
    source_tables["cekura"]["base_url"] = f"https://127.0.0.1:{port}"
    sink_tables["splunk"]["url"] = f"https://localhost:{port}"
    config = configure(tmp_path, source_tables, sink_tables)
    async with server, Daemon(config) as daemon:
        await eventually(lambda: daemon.logged("request_retried", peer="splunk", reason="tls"))
        await eventually(lambda: daemon.logged("request_retried", peer="cekura", reason="tls"))
        await eventually(lambda: not sandbox.elastic.stored.lost(sandbox.bland.records.ids()))
        assert await daemon.end() == 0
    assert not heard
