"""The doubles of described receivers refuse what is not as described, and what the products do."""

import asyncio
import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.quill import FILE

from auditrelay.sandbox import receivers
from auditrelay.sandbox.receivers import Receiver

NOW = 1_767_268_800.0
ITEM: dict[str, Any] = {
    "id": "u1",
    "when": 1_767_268_800_000,
    "title": "t",
    "data": {"metadata": {"original_event_uid": "n1"}},
}


def post(double: Receiver, body: Any, **changed: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {
        "X-Quill-Key": double.secret,
        "Content-Type": "application/json",
        **changed.pop("headers", {}),
    }
    path = changed.pop("path", "/intake/v2/entries")
    method = changed.pop("method", "POST")
    return httpx.request(method, f"{double.url}{path}", content=content, headers=headers)


async def refused(body: Any, **changed: Any) -> int:
    """Return the status of the answer to *body*, of which nothing may be stored."""
    async with Receiver(clock=lambda: NOW, file=FILE) as double:
        reply = await asyncio.to_thread(post, double, body, **changed)
        if reply.status_code >= 300:
            assert double.stored.total == 0
        return reply.status_code


def entries(*items: Any) -> Any:
    return {"entries": list(items)}


async def test_what_is_as_described_is_stored() -> None:
    async with Receiver(clock=lambda: NOW, file=FILE) as double:
        reply = await asyncio.to_thread(post, double, entries(ITEM, {**ITEM, "id": "u2"}))
        assert reply.json() == {"results": [{"state": "stored"}] * 2}
        assert dict(double.stored.by_uid) == {"u1": 1, "u2": 1}
        assert dict(double.stored.by_native_id) == {"n1": 2}
        packed = gzip.compress(json.dumps(entries(ITEM)).encode())
        reply = await asyncio.to_thread(post, double, packed, headers={"Content-Encoding": "gzip"})
        assert reply.status_code == 200


WRONG: list[tuple[Any, dict[str, Any], int]] = [
    (entries(ITEM), {"headers": {"X-Quill-Key": "wrong"}}, 401),
    (entries(ITEM), {"headers": {"Content-Type": "text/plain"}}, 415),
    (entries(ITEM), {"headers": {"Content-Encoding": "br"}}, 415),
    (entries(ITEM), {"path": "/intake/v2/entries/"}, 404),
    (entries(ITEM), {"method": "PUT"}, 405),
    ([ITEM], {}, 400),
    ({"entries": [ITEM], "more": 1}, {}, 400),
    ({"entries": ITEM}, {}, 400),
    (b"{", {}, 400),
    (b'{"entries": [{"id": "u1", "id": "u2"}]}', {}, 400),
    (b'{"entries": [{"id": NaN}]}', {}, 400),
    (entries({**ITEM, "extra": 1}), {}, 400),
    (entries({key: value for key, value in ITEM.items() if key != "title"}), {}, 400),
    (entries({**ITEM, "id": None}), {}, 400),
    (entries({**ITEM, "when": "2026-01-01T12:00:00.000Z"}), {}, 400),
    (entries({**ITEM, "when": 1.5}), {}, 400),
    (entries({**ITEM, "title": 7}), {}, 400),
    (entries({**ITEM, "data": "text"}), {}, 400),
    (entries(*[ITEM] * 501), {}, 413),
    (entries({**ITEM, "title": "x" * 2_000_000}), {}, 413),
]


@pytest.mark.parametrize(("body", "changed", "status"), WRONG)
async def test_anything_else_is_refused(body: Any, changed: dict[str, Any], status: int) -> None:
    assert await refused(body, **changed) == status


def test_every_shipped_receiver_has_a_double_of_its_own() -> None:
    assert all(kind is not Receiver for kind in receivers.available().values())


@pytest.mark.process
def test_a_new_users_walk_from_init_to_the_first_event_in_the_double(tmp_path: Path) -> None:
    """The commands of docs/add-your-receiver.md, with the sandbox in the place of the product."""
    serving = subprocess.Popen(
        [
            *(sys.executable, "-m", "auditrelay.sandbox", "--events", "20", "--vendor", "bland"),
            *("--siem", str(FILE), "--siem", "loki"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert serving.stdout is not None
    addresses = json.loads(serving.stdout.readline())
    try:
        config = tmp_path / "auditrelay.toml"
        program = [sys.executable, "-m", "auditrelay", "-c", str(config)]
        written = [sys.executable, "-m", "auditrelay", "init", str(config), "--source", "bland"]
        subprocess.run([*written, "--sink", "http", "--sink", "loki"], check=True, cwd=tmp_path)
        text = config.read_text()
        assert 'description = ""' in text
        bland, quill, loki = (addresses[name] for name in ("bland", "quill", "loki"))
        tables = {"sources.bland": bland, "sinks.lake": quill, "sinks.loki": loki}
        config.write_text(
            f'state_dir = "{tmp_path}/state"\n' + "".join(map(_table, tables.items()))
        )
        for words in (
            ["check", "--offline"],
            ["check", "--send-test-event"],
            ["run", "--once"],
        ):
            ran = subprocess.run(
                [*program, *words], check=False, capture_output=True, text=True, cwd=tmp_path
            )
            assert ran.returncode == 0, (words, ran.stdout, ran.stderr)
            if words == ["check", "--send-test-event"]:
                assert 'Quill Lake: id is "' in ran.stdout
    finally:
        serving.send_signal(signal.SIGTERM)
        out, _ = serving.communicate(timeout=20)
    totals = json.loads(out.splitlines()[-1])["stored"]
    for name in ("quill", "loki"):
        assert totals[name]["events"] == 21, "and the test event"
        assert totals[name]["lost"]["bland"] == 0
        assert totals[name]["repeated"] == 0


def _table(table: tuple[str, dict[str, Any]]) -> str:
    name, keys = table
    if name == "sources.bland":
        keys = {"type": "bland", "base_url": keys["url"], "api_key": keys["api_key"]}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([f"[{name}]", *lines, ""])
