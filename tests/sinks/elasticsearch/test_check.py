"""What ``auditrelay check`` reports about a cluster."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from auditrelay.errors import Refused, Retryable
from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Item, Sink
from auditrelay.sinks.elasticsearch.templates import COMPONENT, templates

Items = Callable[[Sink, int], list[Item]]
Make = Callable[..., Sink]

STREAM = "logs-auditrelay.bland-default"
FLAVOURS = ["elasticsearch", "opensearch"]

READABLE = "is deduplicated, after a rollover by a search in the older indices"
DATED = "is always deduplicated: it goes to the same index"
UNREADABLE = "is deduplicated until the next rollover, after that it is stored twice"


async def test_check_reports_which_nodes_do_not_answer(nodes: list[Elastic], make: Make) -> None:
    one, two, three = nodes
    sink = make(urls=[each.url for each in nodes])
    assert "unreachable" not in await sink.check()
    await one.stop()
    two.faults.add(answer(503, b""), path="/")
    report = await sink.check()
    assert report.startswith(three.url)
    assert f"unreachable: no connection for GET {one.url}/" in report
    assert f"unreachable: 503 from GET {two.url}/" in report
    await two.stop()
    await three.stop()
    with pytest.raises(Retryable):
        await sink.check()


async def test_check_refuses_nodes_of_different_clusters(nodes: list[Elastic], make: Make) -> None:
    one, two, _ = nodes
    two.uuid = "another"
    with pytest.raises(Refused, match=f"{one.url} and {two.url} are nodes of different clusters"):
        await make(urls=[one.url, two.url]).check()
    two.uuid = "_na_"  # one that has not joined yet
    await make(urls=[one.url, two.url]).check()


async def test_check_tests_the_privilege_to_write_and_stores_nothing(
    elastic: Elastic, make: Make
) -> None:
    report = await make(index="audit-{vendor}-%Y.%m").check()
    assert re.search(r"audit-\*-\*\.\* can be written to;", report)
    elastic.switches.missing_privileges = frozenset({"auto_configure"})
    assert "must exist" in await make().check()
    elastic.switches.missing_privileges = frozenset({"create_doc"})
    elastic.switches.missing_privileges = frozenset({"create_doc"})
    with pytest.raises(Refused, match=r"create_doc"):
        await make().check()
    assert elastic.stored.total == 0


async def test_check_refuses_wrong_credentials_and_servers_that_are_no_cluster(
    elastic: Elastic, make: Make
) -> None:
    with pytest.raises(Refused, match="401"):
        await make(password="wrong").check()
    elastic.faults.add(answer(200, b"<html></html>"), path="/")
    with pytest.raises(Retryable, match="not a response of a cluster"):
        await make().check()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("index", "missing", "expected"),
    [
        (None, (), READABLE),
        (None, ("read",), UNREADABLE),
        (None, ("view_index_metadata",), UNREADABLE),
        ("audit-{vendor}-%Y.%m", (), DATED),
        (
            "audit-{vendor}-%Y.%m",
            ("read", "view_index_metadata"),
            "is always deduplicated: it goes to the same index",
        ),
        (
            "audit-%Y",
            ("manage_index_templates",),
            "is always deduplicated: it goes to the same index",
        ),
        ("logs-audit-%Y.%m", (), READABLE),  # a data stream, although its name is dated
        ("logs-audit-%Y.%m", ("manage_index_templates",), READABLE),
        ("logs-audit-%Y.%m", ("read", "manage_index_templates"), UNREADABLE),
        ("logs-audit-%Y.%m", ("read",), UNREADABLE),
        ("audit", (), READABLE),
    ],
)
async def test_check_reports_until_when_a_resent_event_is_deduplicated(
    make: Make, *, flavour: Any, index: str | None, missing: tuple[str, ...], expected: str
) -> None:
    async with Elastic(flavour=flavour) as cluster:
        cluster.switches.missing_privileges = frozenset(missing)
        keys = {} if index is None else {"index": index}
        assert expected in await make(urls=[cluster.url], **keys).check()
        assert cluster.answered[400] == (1 if flavour == "opensearch" else 0)  # _has_privileges
        assert not cluster.indices


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_check_reports_which_template_an_index_would_have(
    make: Make, *, flavour: Any
) -> None:
    async with Elastic(flavour=flavour) as cluster:

        async def report(**keys: Any) -> str:
            return await make(urls=[cluster.url], **keys).check()

        ours = f"{COMPONENT} is not included"
        before = await report()
        assert "data stream by the template logs;" in before
        assert ours in before
        cluster.switches.streams = ()
        assert "no template makes it a data stream" in await report()
        assert "no template matches it, so field types are guessed" in await report(index="audit")
        for path, body in templates(opensearch=flavour == "opensearch").items():
            cluster.templates[path.lstrip("/")] = body
        after = await report()
        assert "data stream by the template logs-auditrelay" in after
        assert ours not in after
        assert ours in await report(index="audit-%Y")
        assert ours not in await report(index="audit-%Y", format="raw")
        cluster.templates["_index_template/audit"] = {
            "index_patterns": ["audit-*"],
            "composed_of": [COMPONENT],
        }
        dated = await report(index="audit-%Y")
        assert "; index by the template audit" in dated
        assert ours not in dated
        cluster.switches.missing_privileges = frozenset({"manage_index_templates"})
        assert "cannot be read with this key" in await report()
        cluster.switches.streams = ("logs-*-*",)
        cluster.rollover(cluster.make_stream(STREAM))
        assert "; data stream by the template logs" in await report()
        cluster.switches.missing_privileges |= {"view_index_metadata"}
        assert "cannot be read with this key" in await report()


async def test_check_reports_the_wrong_mapping_of_an_existing_index(
    elastic: Elastic, make: Make, items: Items
) -> None:
    sink = make(index="audit")
    await sink.send(items(sink, 1))
    report = await sink.check()
    assert "wrong mapping in audit: tags is text, not keyword, " in report
    assert re.search(r"and \d+ more$", report)
    assert "wrong mapping" not in await make(index="audit", format="raw").check()
    elastic.templates["_index_template/audit"] = {
        "index_patterns": ["audit"],
        "composed_of": [COMPONENT],
    }
    assert "wrong mapping" not in await sink.check()


async def test_check_looks_at_the_newest_index_of_a_stream_only(
    elastic: Elastic, make: Make
) -> None:
    wrong = {"mappings": {"properties": {"source": {"properties": {"ip": {"type": "keyword"}}}}}}
    right = {"mappings": {"properties": {"source": {"properties": {"ip": {"type": "ip"}}}}}}
    old, new = (f".ds-{STREAM}-2026.0{month}.01-00000{month}" for month in (1, 2))
    mapping = "/logs-auditrelay.*-default/_mapping"
    for shown, expected in (
        ({new: right, old: wrong}, False),
        ({new: wrong, old: right}, True),
        ({new: {}, old: {"mappings": {}}}, False),
    ):
        elastic.faults.add(answer(200, json.dumps(shown).encode()), path=mapping)
        report = await make().check()
        assert (f"wrong mapping in {new}: source.ip is keyword, not ip" in report) is expected
