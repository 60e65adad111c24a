"""Sessions: which cookies are sent, how they are renewed, and where they are kept."""

import base64
import json
import os
import stat
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.sources.cencori.dashboards import (
    GIVEN,
    Connect,
    Walk,
)
from tests.sources.cencori.exports import NOW
from tests.support.clock import FakeClock

from auditrelay import sources
from auditrelay.config import load
from auditrelay.errors import Refused
from auditrelay.http.cookies import MAX_HEADER_BYTES
from auditrelay.sandbox import faults
from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sandbox.vendors.cencori.session import COOKIE
from auditrelay.settings.secrets import Secret
from auditrelay.sources import Folder
from auditrelay.sources.cencori import dashboard
from auditrelay.sources.cencori.session import Session
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub


def kept(folder: Path) -> Any:
    return json.loads((folder / "session.json").read_bytes())


async def test_a_renewed_session_is_kept_for_its_owner_only_and_used_after_a_restart(
    vendor: Cencori, connect: Connect, walk: Walk, tmp_path: Path
) -> None:
    folder = tmp_path / "sources" / "labs"
    configured = vendor.cookie
    source = connect(cookie=configured)
    source.keep_in(Folder(folder))
    await walk(source)
    assert not folder.exists()  # nothing to store yet
    vendor.renew_session()
    await walk(source)
    await walk(source)
    assert vendor.cookie != configured
    assert stat.S_IMODE((folder / "session.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["session.json"]
    assert "; ".join(f"{k}={v}" for k, v in kept(folder)["cookies"].items()) == vendor.cookie

    again = connect(cookie=configured)  # as it still is in the configuration
    with pytest.raises(Refused, match="401"):
        await walk(again)
    again.keep_in(Folder(folder))
    await walk(again)


async def test_a_session_may_be_split_into_several_cookies_and_back(
    vendor: Cencori, connect: Connect, walk: Walk, tmp_path: Path
) -> None:
    source = connect()
    source.keep_in(Folder(tmp_path))
    for chunk, count in ((1000, 3), (2000, 2), (3180, 1)):
        vendor.switches.chunk = chunk
        vendor.renew_session()
        await walk(source)
        assert len(kept(tmp_path)["cookies"]) == count
        await walk(source)


async def test_a_changed_cookie_in_the_configuration_replaces_the_stored_one(
    vendor: Cencori, connect: Connect, walk: Walk, tmp_path: Path
) -> None:
    source = connect()
    source.keep_in(Folder(tmp_path))
    vendor.renew_session()
    await walk(source)
    vendor.end_session()
    with pytest.raises(Refused, match="401"):
        await walk(source)
    fresh = connect(cookie=vendor.cookie)
    fresh.keep_in(Folder(tmp_path))
    await walk(fresh)


async def test_a_rotated_secret_is_read_again_after_a_401(
    vendor: Cencori, walk: Walk, clock: FakeClock, tmp_path: Path
) -> None:
    secret = tmp_path / "cookie"
    secret.write_text(vendor.cookie)
    config = tmp_path / "c.toml"
    config.write_text(
        f'[sources.labs]\ntype = "cencori"\nmode = "dashboard"\norganization_slug = "acme-labs"\n'
        f'base_url = "{vendor.url}"\ncookie = "${{file:{secret}}}"\n'
        '[sinks.out]\ntype = "file"\npath = "-"\n'
    )
    made = load(config, {"HOME": str(tmp_path)}).sources["labs"]
    source = sources.make("labs", made, Metrics(), clock, tmp_path / "state")
    assert isinstance(source, dashboard.Source)
    vendor.renew_session()
    await walk(source)
    vendor.end_session()
    secret.write_text(vendor.cookie)
    await walk(source)
    assert vendor.answered[401] == 1
    vendor.renew_session()
    await walk(source)
    folder = tmp_path / "state" / "sources" / "labs"
    assert "; ".join(f"{k}={v}" for k, v in kept(folder)["cookies"].items()) == vendor.cookie
    await source.close()


async def test_two_processes_share_a_session(
    vendor: Cencori, connect: Connect, walk: Walk, tmp_path: Path
) -> None:
    daemon, command = connect(), connect()
    for source in (daemon, command):
        source.keep_in(Folder(tmp_path))
        await walk(source)
    vendor.renew_session()
    await walk(command)
    await walk(daemon)  # would be refused with what it had before
    assert vendor.answered[401] == 0


@pytest.mark.parametrize("renewed", [False, True])
@pytest.mark.parametrize(
    "spell",
    [
        str,
        lambda token: token[:20],
        lambda token: token[-20:],
        lambda token: urllib.parse.quote(urllib.parse.quote(token, safe=""), safe=""),
        lambda token: token.encode().hex(),
        lambda token: base64.b64encode(token.encode()).decode()[:-4],
    ],
)
async def test_a_refusal_that_repeats_the_session_shows_nothing_of_it(
    vendor: Cencori,
    connect: Connect,
    walk: Walk,
    tmp_path: Path,
    spell: Callable[[str], str],
    *,
    renewed: bool,
) -> None:
    token = "base64-eyJ4Ijo5fQ0k7Qz9fA3bX81LmPq0Zt71Kd02"
    source = connect(cookie=f"{COOKIE}=x{token}; other=1" if renewed else f"{COOKIE}={token}")
    source.keep_in(Folder(tmp_path))
    if renewed:
        answer = faults.answer(403, b"{}", {"Set-Cookie": f"{COOKIE}={token}"})
        vendor.faults.add(answer)
        with pytest.raises(Refused):
            await walk(source)
    echo = json.dumps({"error": f"no session {spell(token)}"}).encode()
    vendor.faults.add(faults.answer(401, echo))
    with pytest.raises(Refused) as caught:
        await walk(source)
    assert "no session ***" in str(caught.value)
    assert not any(spell(token)[at : at + 12] in str(caught.value) for at in range(8))


def session(text: str = GIVEN) -> Session:
    return Session(Secret(text))


def set_cookies(lines: list[str]) -> httpx.Headers:
    return httpx.Headers([(b"Set-Cookie", line.encode()) for line in lines])


def test_only_the_cookies_of_the_session_are_sent() -> None:
    made = session(f"_ga=1; {COOKIE}.0=a=b; theme=x; {COOKIE}.1=c; sb-x-auth-token-code-verifier=z")
    assert made.header() == f"{COOKIE}.0=a=b; {COOKIE}.1=c"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f"{COOKIE}=new; Path=/; HttpOnly"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Max-Age=5; Expires=Thu, 01 Jan 1970 00:00:00 GMT"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Expires=Fri, 01 Jan 2100 00:00:00 GMT"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Expires=nonsense"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Max-Age=soon"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Max-Age={'9' * 5000}"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Max-Age"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Partitioned; Priority=High; ;=; \x00"], f"{COOKIE}=new"),
        ([f"{COOKIE}=new; Domain=another.example"], f"{COOKIE}=new"),
        ([f"{COOKIE}.0=x", f"{COOKIE}.1=y", f"{COOKIE}=; Max-Age=0"],
         f"{COOKIE}.0=x; {COOKIE}.1=y"),
        ([f"{COOKIE}.0=x", f"{COOKIE}=old; Expires=Thu, 01 Jan 1970 00:00:00 GMT"],
         f"{COOKIE}.0=x"),
        # a reply that deletes the whole session counts only when the next request is refused
        ([f"{COOKIE}=; Max-Age=0"], GIVEN),
        ([f"{COOKIE}=x; Max-Age=-1"], GIVEN),
        (["other=x", "sb-x=y", "garbage", "", "=", ";"], GIVEN),
        # what no header can carry would be kept, and refused with every request from then on
        ([f"{COOKIE}=a\tb"], GIVEN),
        ([f"{COOKIE}=caf\xe9"], GIVEN),
        ([f"{COOKIE}={'x' * 5000}"], GIVEN),
        ([], GIVEN),
    ],
)  # fmt: skip
def test_cookies_that_the_server_sets_replace_the_old_ones(lines: list[str], expected: str) -> None:
    made = session()
    made.update(set_cookies(lines), NOW)
    assert made.header() == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 200_000,
        b'{"origin":1}',
        b'{"origin":"x","cookies":{"a":1}}',
        b"\xff",
    ],
)
def test_a_damaged_file_is_ignored(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "session.json").write_bytes(text)
    made = session()
    made.keep_in(Folder(tmp_path))
    assert made.header() == GIVEN


def test_a_kept_cookie_that_no_header_can_carry_is_ignored(tmp_path: Path) -> None:
    made = session()
    made.keep_in(Folder(tmp_path))
    made.update(set_cookies([f"{COOKIE}=new"]), NOW)
    damaged = kept(tmp_path) | {"cookies": {COOKIE: "a\r\nX-More: 1", f"{COOKIE}.1": "\ud800"}}
    (tmp_path / "session.json").write_text(json.dumps(damaged))
    again = session()
    again.keep_in(Folder(tmp_path))
    assert again.header() == GIVEN


def test_cookies_are_never_more_than_a_header_can_carry() -> None:
    made = session()
    made.update(set_cookies([f"sb-{n}-auth-token={'x' * 1000}" for n in range(100)]), NOW)
    assert len(made.header()) <= MAX_HEADER_BYTES


def test_a_renewed_cookie_is_hidden_as_well_as_the_configured_one(tmp_path: Path) -> None:
    made = session(f"{COOKIE}=first-value-1; other=1")
    made.keep_in(Folder(tmp_path))
    made.header()
    made.update(set_cookies([f"{COOKIE}=second-value-2"]), NOW)
    echoed = scrub("the cookies first-value-1 and second-value-2 are not valid")
    assert echoed == "the cookies *** and *** are not valid"


def test_cookies_that_cannot_be_written_now_are_written_later(tmp_path: Path) -> None:
    blocked = tmp_path / "folder"
    blocked.write_text("a file where the folder should be")
    made = session()
    made.keep_in(Folder(blocked))
    made.update(set_cookies([f"{COOKIE}=new"]), NOW)
    assert made.header() == f"{COOKIE}=new"
    blocked.unlink()
    made.update(set_cookies([]), NOW)
    assert kept(blocked)["cookies"] == {COOKIE: "new"}


def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = session()
    made.keep_in(Folder(tmp_path))
    made.update(set_cookies([f"{COOKIE}=one"]), NOW)

    def die(_descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            made.update(set_cookies([f"{COOKIE}=two"]), NOW)
    assert kept(tmp_path)["cookies"] == {COOKIE: "one"}
    again = session()
    again.keep_in(Folder(tmp_path))
    assert again.header() == f"{COOKIE}=one"
    again.update(set_cookies([f"{COOKIE}=three"]), NOW)  # the incomplete file is no obstacle
    assert kept(tmp_path)["cookies"] == {COOKIE: "three"}


def test_cookies_are_kept_wherever_they_are_loaded_and_saved() -> None:
    class Memory(dict[str, bytes]):
        def load(self, name: str) -> bytes | None:
            return self.get(name)

        def save(self, name: str, content: bytes) -> None:
            self[name] = content

    memory, one, other = Memory(), session(), session()
    one.keep_in(memory)
    other.keep_in(memory)
    one.update(set_cookies([f"{COOKIE}=renewed"]), NOW)
    assert other.header() == f"{COOKIE}=renewed", "another process uses it from then on"
