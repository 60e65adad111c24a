"""``auditrelay check``: what it reports for every source and sink, and what it leaves behind."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.daemon import Ended, command, configure, sinks, sources

from auditrelay.cli.check import Row, check_all
from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.sandbox import Sandbox, faults
from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sandbox.vendors.jitsudo import Jitsudo
from auditrelay.sandbox.vendors.slaunch import SLaunch
from auditrelay.sources import Page

Table = dict[str, Any]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


def untouched(sandbox: Sandbox) -> bool:
    """Return whether no SIEM has kept anything."""
    intakes = (sandbox.splunk, sandbox.datadog, sandbox.elastic)
    return not any(each.stored.total for each in intakes) and not sandbox.elastic.indices


async def rows(folder: Path, sources: Table, sinks: Table, *, test: bool = False) -> list[Row]:
    """Return what check reports, without a process of its own."""
    async with asyncio.timeout(60):
        return await check_all(load(configure(folder, sources, sinks), {}), Clock(), test=test)


# --- the command --------------------------------------------------------------------------------


@pytest.mark.process
async def test_every_source_and_sink_is_queried_and_nothing_is_left_behind(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    ended = await command(config, "check")
    assert ended.status == 0, ended.stderr
    assert ended.stdout.count(" ok ") == 5
    assert untouched(sandbox)
    assert not (tmp_path / "state").exists()


@pytest.mark.process
async def test_offline_makes_no_requests(tmp_path: Path, sandbox: Sandbox) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    ended = await command(config, "check", "--offline")
    assert ended.status == 0
    assert ended.stdout.count(" valid ") == 5
    doubles = (
        sandbox.cekura,
        sandbox.bland,
        sandbox.splunk,
        sandbox.datadog,
        sandbox.elastic,
    )
    assert not any(double.requests for double in doubles)
    both = await command(config, "check", "--offline", "--send-test-event")
    assert both.status == 2
    assert "exclude each other" in both.stderr


@pytest.mark.process
async def test_one_that_fails_makes_the_exit_status_1_and_the_others_are_still_shown(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    tables = sinks(sandbox)
    tables["splunk"]["token"] = "a-wrong-token-of-ours"
    tables["off"] = {**tables["datadog"], "enabled": False}
    ended = await command(configure(tmp_path, sources(sandbox), tables), "check")
    assert ended.status == 1
    assert (ended.stdout.count(" ok "), ended.stdout.count(" failed ")) == (4, 1)
    assert ended.stdout.count(" disabled ") == 1
    assert "a-wrong-token" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.process
async def test_a_pattern_that_fits_no_source_yet_is_a_warning_and_no_failure(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    tables = sinks(sandbox)
    tables["datadog"]["sources"] = ["acme-*"]
    config = configure(tmp_path, sources(sandbox), tables)
    for words in (["--offline"], ["--send-test-event"]):
        ended = await command(config, "check", *words)
        assert ended.status == 0, ended.stdout + ended.stderr
        assert 'warning: sinks.datadog.sources: "acme-*" matches no source yet' in ended.stdout
        assert "matches no source yet" not in ended.stderr, "once is enough"
    assert "receives no source" in " ".join(ended.stdout.replace("│", " ").split())
    assert not sandbox.datadog.stored.total
    assert sandbox.splunk.stored.total == sandbox.elastic.stored.total == 1


def queries(ended: Ended, name: str) -> list[str]:
    """Return the lines to copy that are printed for the sink *name*."""
    _, _, rest = ended.stdout.partition(f"The test event in {name}, after some seconds:\n")
    return [line.strip() for line in rest.partition("\n\n")[0].splitlines() if line.strip()]


@pytest.mark.process
async def test_a_test_event_is_sent_to_every_sink_with_the_search_that_finds_it(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "it's.ndjson"
    tables = sinks(sandbox) | {"lines": {"type": "file", "path": str(path)}}
    tables["splunk"]["index"] = "main"
    config = configure(tmp_path, sources(sandbox), tables)
    ended = await command(config, "check", "--send-test-event")
    assert ended.status == 0, ended.stdout
    assert ended.stdout.count("took the test event") >= 3  # a cell may break the line

    (document,) = sandbox.splunk.stored.documents
    (spl,) = queries(ended, "splunk")
    assert spl == f"SPL: search index=main event_id::{document['fields']['event_id']}"
    assert document["event"]["auditrelay"]["test"] is True

    (document,) = sandbox.datadog.stored.documents
    assert queries(ended, "datadog") == [f"Datadog: @evt.id:{document['evt']['id']}"]
    assert document["auditrelay"]["test"] is True
    assert document["evt"]["name"] == "auditrelay.test"
    assert document["ddsource"] == "cekura"

    # It is where the events of a source will be, and nowhere else.
    ((name, index),) = sandbox.elastic.indices.items()
    assert name == "logs-auditrelay.cekura-default"
    ((_, uid, document),) = index.documents
    kql, curl = queries(ended, "elastic")
    assert kql == f'KQL: _id : "{uid}"'
    assert document["event"]["action"] == "auditrelay.test"
    (grep,) = queries(ended, "lines")
    found = await asyncio.create_subprocess_exec(*shlex.split(grep), stdout=asyncio.subprocess.PIPE)
    out, _ = await found.communicate()
    assert json.loads(out)["event"]["action"] == "auditrelay.test"

    again = await command(config, "check", "--send-test-event")
    assert again.status == 0
    assert len(index.documents) == 2  # with a uid of its own
    await _finds(curl, sandbox.elastic.api_key, uid)


async def _finds(curl: str, key: str, uid: str) -> None:
    """Send what the line for the shell would send, and see that it finds the event *uid*."""
    words = shlex.split(curl.replace("$API_KEY", key))
    assert words[:3] == ["curl", "-sS", "-H"]
    name, _, value = words[3].partition(": ")
    async with httpx.AsyncClient() as client:
        reply = await client.get(words[4], headers={name: value})
    assert [hit["_id"] for hit in reply.json()["hits"]["hits"]] == [uid]


@pytest.mark.parametrize(
    ("sink", "path", "status"),
    [
        ("splunk", "/services/collector/event", 503),
        ("datadog", "/api/v2/logs", 413),
        ("datadog", "/api/v2/logs", 403),
        ("elastic", "/_bulk", 503),
    ],
)
async def test_a_sink_that_does_not_take_it_fails(
    tmp_path: Path, sandbox: Sandbox, sink: str, path: str, status: int
) -> None:
    double = {"splunk": sandbox.splunk, "datadog": sandbox.datadog, "elastic": sandbox.elastic}
    double[sink].faults.add(
        faults.answer(status, b"{}"),
        path=path,
        when=lambda request: len(request.body) > 20,
        times=None,
    )
    found = {
        row.name: row for row in await rows(tmp_path, sources(sandbox), sinks(sandbox), test=True)
    }
    assert [name for name, row in found.items() if row.result == "failed"] == [sink]
    assert str(status) in found[sink].message
    assert found[sink].queries == ()


@pytest.mark.parametrize(("status", "kind"), [(429, ""), (400, "mapper_parsing_exception")])
async def test_an_item_that_is_not_taken_fails_with_its_reason(
    tmp_path: Path, sandbox: Sandbox, status: int, kind: str
) -> None:
    sandbox.elastic.fail_items(status, times=None, kind=kind, reason="no room at the inn")
    (row,) = [
        row
        for row in await rows(tmp_path, sources(sandbox), sinks(sandbox), test=True)
        if row.name == "elastic"
    ]
    assert row.result == "failed"
    assert "did not take the test event" in row.message
    assert "no room at the inn" in row.message


async def test_a_sink_that_fails_the_check_is_sent_nothing(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    sandbox.elastic.switches.missing_privileges = frozenset({"create_doc"})
    found = await rows(tmp_path, sources(sandbox), sinks(sandbox), test=True)
    (failed,) = [row for row in found if row.result == "failed"]
    assert failed.name == "elastic"
    assert "no privilege to write to logs-auditrelay.*-default" in failed.message
    assert not [each for each in sandbox.elastic.seen if each.path == "/_bulk"]


async def test_the_test_event_is_that_of_a_source_that_the_sink_receives(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    tables = sources(sandbox)
    tables["cekura"]["enabled"] = False
    tables["bland"]["tags"] = {"team": "sec"}
    await rows(tmp_path, tables, {"elastic": sinks(sandbox)["elastic"]}, test=True)
    assert list(sandbox.elastic.indices) == ["logs-auditrelay.bland-default"]
    (document,) = sandbox.elastic.stored.documents
    assert document["labels"]["team"] == "sec"


async def test_an_event_in_the_failure_store_is_reported(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.elastic.faults.add(
        faults.answer(200, b'{"items":[{"create":{"status":201,"failure_store":"used"}}]}'),
        path="/_bulk",
    )
    found = await rows(tmp_path, sources(sandbox), sinks(sandbox), test=True)
    (elastic,) = [row for row in found if row.name == "elastic"]
    assert "went to the failure store" in elastic.message


async def test_an_oversized_test_event_is_reported_and_not_sent(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditrelay.sinks.datadog.EVENT_BYTES", 100)
    tables = {"datadog": sinks(sandbox)["datadog"]}
    *_, datadog = await rows(tmp_path, sources(sandbox), tables, test=True)
    assert datadog.result == "failed"
    assert "the limit is 100 (too_large)" in datadog.message
    assert sandbox.datadog.stored.total == 0


# --- sources of another kind --------------------------------------------------------------------


class Folder:
    """A source that reads files."""

    scope = ""

    async def files(self, known: Any, now: Any) -> AsyncIterator[Any]:
        yield None

    async def check(self) -> str:
        return "/exports: 2 files wait"

    async def close(self) -> None: ...


class Leaky:
    """A vendor that hides some events."""

    scope = ""

    async def walk(self, window: Any, **how: bool) -> AsyncIterator[Page]:
        yield Page([b'{"created_at":5}'], last=True, partial="plan_categories")

    async def close(self) -> None: ...


class Begun:
    """A vendor that does not say how many events there are, and has another page."""

    scope = ""

    async def walk(self, window: Any, **how: bool) -> AsyncIterator[Page]:
        yield Page([b'{"created_at":5}'] * 2, last=False)

    async def close(self) -> None: ...


HIDDEN = (
    "answers; 1 event in the last hour; some events are hidden by the plan (plan_categories); "
    "warning: the time of 1 record cannot be read, or is far off, such as '5'"
)
BEGUN = (
    "answers; at least 2 events in the last hour; "
    "warning: the time of 2 records cannot be read, or is far off, such as '5'"
)


@pytest.mark.parametrize(
    ("kind", "double", "said"),
    [
        ("cencori", Folder, "/exports: 2 files wait"),
        ("bland", Leaky, HIDDEN),
        ("bland", Begun, BEGUN),
    ],
)
async def test_the_message_depends_on_the_kind_of_source(
    tmp_path: Path,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    double: Any,
    said: str,
) -> None:
    monkeypatch.setattr(f"auditrelay.sources.{kind}.build", lambda *_: double())
    tables = {
        "bland": sources(sandbox)["bland"],
        "cencori": {"type": "cencori", "mode": "files", "directory": str(tmp_path)},
    }
    found = await rows(tmp_path, {kind: tables[kind]}, {"elastic": sinks(sandbox)["elastic"]})
    assert (found[0].result, found[0].message) == ("ok", said)


# --- why a vendor refuses -------------------------------------------------------------------------


@pytest.fixture
async def jitsudo() -> AsyncIterator[Jitsudo]:
    async with Jitsudo() as double:
        yield double


@pytest.fixture
async def slaunch() -> AsyncIterator[SLaunch]:
    async with SLaunch() as double:
        yield double


async def failure(folder: Path, table: Table, sandbox: Sandbox) -> str:
    """Return what check reports for one source, which fails."""
    (row, sink) = await rows(folder, {"one": table}, {"elastic": sinks(sandbox)["elastic"]})
    assert (row.result, sink.result) == ("failed", "ok")
    return row.message


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            lambda double: setattr(double.switches, "key_scope", "project"),
            (
                "403",
                "You do not have permission to perform this action.",
                "the key must be an organisation-level key",
            ),
        ),
        (lambda double: double.rotate("another"), ("401", "Invalid API key", "check the key")),
    ],
)
async def test_cekura(
    tmp_path: Path, sandbox: Sandbox, prepare: Callable[[Any], None], said: tuple[str, ...]
) -> None:
    table = sources(sandbox)["cekura"]
    prepare(sandbox.cekura)
    message = await failure(tmp_path, table, sandbox)
    assert all(each in message for each in said), message


def _insufficient(double: Any) -> None:
    double.switches.unauthorized = "UNAUTHORIZED"
    double.rotate("another")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            lambda double: setattr(double.switches, "feature", "403"),
            ("403", "Audit logs are not enabled for this organization", "FEATURE_NOT_ENABLED"),
        ),
        (
            lambda double: setattr(double.switches, "feature", "404"),
            ("404", "Not found", "if the address is right"),
        ),
        (
            lambda double: double.rotate("another"),
            ("401", "Unauthorized (AUTH_FAILURE)", "check the key"),
        ),
        (
            _insufficient,
            ("401", "insufficient permissions", "an admin or owner of the organisation"),
        ),
    ],
)
async def test_bland(
    tmp_path: Path, sandbox: Sandbox, prepare: Callable[[Any], None], said: tuple[str, ...]
) -> None:
    table = sources(sandbox)["bland"]
    prepare(sandbox.bland)
    message = await failure(tmp_path, table, sandbox)
    assert all(each in message for each in said), message


OTHER_TENANT = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"tenant_id": OTHER_TENANT},
            (
                "403",
                "the credential does not belong to the requested tenant (tenant_mismatch)",
                f"tenant_id is {OTHER_TENANT} in the configuration",
                "set tenant_id to the credential's tenant",
            ),
        ),
        ({"api_key": "wrong-key"}, ("401", "invalid API key", "check the key")),
        (
            {"api_key": None, "bearer_token": "expired-token"},
            ("401", "token is invalid or has expired", "expires after an hour"),
        ),
    ],
)
async def test_jitsudo(
    tmp_path: Path, sandbox: Sandbox, jitsudo: Jitsudo, change: Table, said: tuple[str, ...]
) -> None:
    table = {
        "type": "jitsudo",
        "base_url": jitsudo.url,
        "tenant_id": jitsudo.tenant,
        "api_key": jitsudo.api_key,
        **change,
    }
    table = {key: value for key, value in table.items() if value is not None}
    message = await failure(tmp_path, table, sandbox)
    assert all(each in message for each in said), message


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            lambda double: double.scopes.clear(),
            ("403", "Not enough permissions: audit:read is required", "lacks the scope audit:read"),
        ),
        (
            lambda double: setattr(double, "key_expires", 1.0),
            ("401", "API key has expired", "whether it has expired"),
        ),
        (lambda double: double.rotate("another"), ("401", "Could not validate credentials")),
    ],
)
async def test_slaunch(
    tmp_path: Path,
    sandbox: Sandbox,
    slaunch: SLaunch,
    prepare: Callable[[Any], None],
    said: tuple[str, ...],
) -> None:
    table = {"type": "slaunch", "base_url": slaunch.url, "api_key": slaunch.api_key}
    prepare(slaunch)
    message = await failure(tmp_path, table, sandbox)
    assert all(each in message for each in said), message


@pytest.fixture
async def cencori() -> AsyncIterator[Cencori]:
    async with Cencori() as double:
        yield double


def dashboard(double: Cencori, **changes: Any) -> Table:
    return {
        "type": "cencori",
        "mode": "dashboard",
        "base_url": double.url,
        "organization_slug": double.organization_slug,
        "cookie": double.cookie,
        **changes,
    }


@pytest.mark.parametrize(
    ("prepare", "change", "said"),
    [
        (
            lambda double: setattr(double.switches, "role", "member"),
            {},
            ("403", "owner or admin"),
        ),
        (lambda double: double.end_session(), {}, ("401", "sign in to the dashboard")),
        (
            lambda _: None,
            {"organization_slug": "another"},
            ("404", "Organization not found", "check organization_slug"),
        ),
    ],
)
async def test_cencori(
    tmp_path: Path,
    sandbox: Sandbox,
    cencori: Cencori,
    prepare: Callable[[Any], None],
    change: Table,
    said: tuple[str, ...],
) -> None:
    table = dashboard(cencori, **change)
    prepare(cencori)
    message = await failure(tmp_path, table, sandbox)
    assert all(each in message for each in said), message
    assert "base64" not in message


async def test_cencori_names_what_the_plan_hides(
    tmp_path: Path, sandbox: Sandbox, cencori: Cencori
) -> None:
    cencori.switches.plan = "pro"
    tables = {"one": dashboard(cencori)}
    (row, _) = await rows(tmp_path, tables, {"elastic": sinks(sandbox)["elastic"]})
    assert row.result == "ok"
    assert "some events are hidden by the plan (plan_categories)" in row.message


async def test_a_folder_of_exports_reports_its_files(tmp_path: Path, sandbox: Sandbox) -> None:
    folder = tmp_path / "exports"
    table = {"type": "cencori", "mode": "files", "directory": str(folder)}
    elastic = {"elastic": sinks(sandbox)["elastic"]}
    (row, _) = await rows(tmp_path, {"one": table}, elastic)
    assert row.result == "failed"
    assert str(folder) in row.message
    folder.mkdir()
    (row, _) = await rows(tmp_path, {"one": table}, elastic)
    assert row.result == "ok"
    assert row.message


async def test_a_source_that_answers_reports_how_many_events_there_are(
    tmp_path: Path, sandbox: Sandbox, jitsudo: Jitsudo, slaunch: SLaunch
) -> None:
    tables = sources(sandbox) | {
        "jitsudo": {
            "type": "jitsudo",
            "base_url": jitsudo.url,
            "tenant_id": jitsudo.tenant,
            "api_key": jitsudo.api_key,
        },
        "slaunch": {"type": "slaunch", "base_url": slaunch.url, "api_key": slaunch.api_key},
    }
    found = await rows(tmp_path, tables, {"elastic": sinks(sandbox)["elastic"]})
    assert [row.result for row in found] == ["ok"] * 5
    assert all(row.message.startswith("answers; 0 events in the last hour") for row in found[:4])
