"""The bulk endpoint of both flavours: item by item, and as strict as the servers."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sandbox.siems.elasticsearch.filter_path import filtered

STREAM = "logs-auditrelay.cekura-default"
NDJSON = "application/x-ndjson"


@pytest.fixture
async def es(clock: Any) -> AsyncIterator[Elastic]:
    async with Elastic(clock=clock.seconds) as es:
        yield es


@pytest.fixture
async def opensearch(clock: Any) -> AsyncIterator[Elastic]:
    async with Elastic(flavour="opensearch", clock=clock.seconds) as opensearch:
        yield opensearch


def metadata(value: Any) -> dict[str, Any]:
    return document(cekura={"audit": {"metadata": value}})


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value  # type: ignore[no-any-return]  # an object, as there are levels


def document(**fields: Any) -> dict[str, Any]:
    return {"@timestamp": "2026-11-20T12:00:00.000Z", **fields}


def lines(*docs: tuple[str, dict[str, Any]], index: str = STREAM, verb: str = "create") -> bytes:
    rows: list[Any] = []
    for doc_id, source in docs:
        rows += [{verb: {"_index": index, "_id": doc_id}}, source]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def call(
    client: httpx.AsyncClient,
    es: Elastic,
    path: str = "/_bulk",
    body: Any = b"",
    method: str = "POST",
    **headers: str,
) -> httpx.Response:
    named = {"Content-Type": NDJSON if isinstance(body, bytes) else "application/json"}
    named.update({name.replace("_", "-"): value for name, value in headers.items()})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    auth = httpx.BasicAuth(es.username, es.password)
    return await client.request(
        method, f"{es.url}{path}", content=content, headers=named, auth=auth
    )


def results(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    return [result for item in reply.json()["items"] for result in item.values()]


def errors(reply: httpx.Response) -> list[tuple[int, str | None]]:
    return [(result["status"], result.get("error", {}).get("type")) for result in results(reply)]


GOOD = lines(("1", document()))


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "reason"),
    [
        ("/_bulk", b"", {}, 400, "request body is required"),
        ("/_bulk", GOOD[:-1], {}, 400, "terminated by a newline"),
        ("/_bulk", b"{\n{}\n", {}, 400, "x_content_e_o_f_exception"),
        ("/_bulk", b"text\n{}\n", {}, 400, "x_content_parse_exception"),
        ("/_bulk", b"[]\n{}\n", {}, 400, "expected START_OBJECT"),
        ("/_bulk", b'{"insert":{}}\n{}\n', {}, 400, "but found [insert]"),
        ("/_bulk", b'{"create":5}\n{}\n', {}, 400, "expected START_OBJECT"),
        ("/_bulk", GOOD + b'{"create":{"_type":"x"}}\n{}\n', {}, 400, "line [3] contains"),
        ("/_bulk", b'{"create":{}}\n{}\n', {}, 400, "index is missing"),
        ("/_bulk", b'{"create":{"_index":"x"}}\n', {}, 400, "no requests added"),
        ("/_bulk", lines(("x" * 513, document())), {}, 400, "must be no longer than 512 bytes"),
        ("/_bulk?timestamp=1", GOOD, {}, 400, "unrecognized parameter: [timestamp]"),
        ("/_bulk?require_data_stream=yes", GOOD, {}, 400, "only [true] or [false]"),
        ("/_bulk", GOOD, {"Content_Type": "text/plain"}, 406, "Content-Type header [text/plain]"),
        ("/_bulk", b"\x28\xb5\n", {"Content_Encoding": "zstd"}, 400, "x_content_parse_exception"),
        ("/_bulk", GOOD, {"Content_Encoding": "gzip"}, 400, "gzip"),
        ("/_nothing", GOOD, {}, 405, "Incorrect HTTP method for uri [/_nothing]"),
        ("/_nothing/at/all", GOOD, {}, 400, "no handler found"),
    ],
)
async def test_a_malformed_request_is_refused_as_a_whole(
    es: Elastic,
    client: httpx.AsyncClient,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    reason: str,
) -> None:
    reply = await call(client, es, path, body, **headers)
    assert (reply.status_code, reply.json()["status"]) == (status, status)
    assert reason in reply.text
    assert reply.headers["x-elastic-product"] == "Elasticsearch"
    assert es.stored.total == 0


async def test_an_unknown_encoding_is_taken_for_none(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    reply = await call(client, es, body=GOOD, Content_Encoding="br")
    assert errors(reply) == [(201, None)]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/_bulk?pipeline=none", GOOD, "pipeline with id [none] does not exist"),
        ("/_bulk", lines(("", document())), "if _id is specified it must not be empty"),
    ],
)
async def test_an_item_is_refused_for_its_pipeline_or_empty_id(
    es: Elastic, client: httpx.AsyncClient, path: str, body: bytes, reason: str
) -> None:
    [result] = results(await call(client, es, path, body))
    assert result["status"] == 400
    assert result["error"] == {"type": "illegal_argument_exception", "reason": reason}
    assert es.stored.total == 0


async def test_the_same_id_is_a_conflict_until_a_rollover(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    for expected in ((201, None), (409, "version_conflict_engine_exception")):
        assert errors(await call(client, es, body=GOOD)) == [expected]
    assert results(await call(client, es, body=GOOD))[0]["_index"].endswith("-000001")
    await call(client, es, f"/{STREAM}/_rollover")
    assert errors(await call(client, es, body=GOOD)) == [(201, None)]
    assert es.stored.repeated() == {"1": 2}
    assert (await call(client, es, f"/{STREAM}/_count")).json()["count"] == 2


@pytest.mark.parametrize(
    ("verb", "source", "status", "reason"),
    [
        ("index", document(), 400, "only write ops with an op_type of create"),
        ("create", {}, 400, "[@timestamp] is missing"),
        ("create", {"@timestamp": "yesterday"}, 400, "[@timestamp] of type [date]"),
        ("create", {"@timestamp": "2026-02-30T00:00:00Z"}, 400, "[@timestamp] of type [date]"),
        ("create", document(**{"source.ip": "not an address"}), 400, "of type [ip]"),
        ("create", document(related={"ip": ["10.0.0.1", "x"]}), 400, "of type [ip]"),
        ("create", document(event="text"), 400, "found a concrete value"),
        ("create", document(count="many"), 400, "[count] of type [long]"),
        ("create", document(count={"a": 1}), 400, "found an object"),
        ("create", document(note={"a": 1}), 400, "found an object"),
        ("create", document(flag="maybe"), 400, "of type [boolean]"),
        ("create", document(deep={"inner": 5}), 400, "found a concrete value"),
        ("create", document(**{"deep.inner": 5}), 400, "found a concrete value"),
        ("create", document(**{"": 1}), 400, "cannot be empty"),
        ("create", document(**{".a": 1}), 400, "ambiguous"),
        ("create", document(**{"a.": 1}), 400, "ambiguous"),
        ("create", document(**{"a. .b": 1}), 400, "ambiguous"),
        ("create", document(**{".".join("a" * 21): 1}), 400, "mapping depth [20]"),
        ("create", document(count=2**63), 400, "[count] of type [long]"),
        ("create", document(count=10**1001), 400, "Number value length"),
        ("create", document(**{"k" * 50_001: 1}), 400, "Name length"),
        ("create", document(note="\ud800"), 400, "surrogates"),
        ("create", metadata({"a\0b": 1}), 400, "reserved character"),
        ("create", metadata({"a": [{"b\0": 1}]}), 400, "reserved character"),
        ("create", metadata({"a": "\u20ac" * 11_000}), 400, "immense field"),
        ("create", metadata(nested(21)), 400, "maximum depth limit of [20]"),
        ("create", metadata(nested(20)), 201, ""),
        ("create", metadata({"": 1, ".": 2, "a..b": 3, "\0": None}), 201, ""),
        ("create", document(auditrelay={"changes": "text"}), 400, "of type [flattened]"),
        ("create", document(data_stream={"dataset": "other"}), 400, "constant_keyword"),
        ("create", document(data_stream={"dataset": "auditrelay.cekura"}), 201, ""),
        ("create", document(cekura={"audit": {"metadata": {"a": {"b": 1}}}}), 201, ""),
        ("create", document(cekura={"audit": {"metadata": {"a": 5}}}), 201, ""),
        ("create", document(count="17", note=5, flag="true"), 201, ""),
        ("create", document(event={"created": "2026-11-20T12:00:00.123456Z"}), 201, ""),
        ("create", document(related={"ip": ["10.0.0.1", "::1"]}), 201, ""),
        ("create", document(note=None), 201, ""),
    ],
)
async def test_each_document_has_its_own_result(
    es: Elastic,
    client: httpx.AsyncClient,
    verb: str,
    source: dict[str, Any],
    status: int,
    reason: str,
) -> None:
    known = document(
        count=1,
        note="x",
        flag=True,
        deep={"inner": {"x": 1}},
        cekura={"audit": {"metadata": {"a": "x"}}},
    )
    await call(client, es, body=lines(("0", known)))
    body = lines(("1", source), verb=verb) + lines(("2", document()))
    reply = await call(client, es, body=body)
    first, second = results(reply)
    assert reply.json()["errors"] is (status != 201)
    assert first["status"] == status
    assert reason in first.get("error", {}).get("reason", "")
    assert second["status"] == 201
    assert es.stored.total == 2 + (status == 201)


async def test_a_key_that_stands_twice_is_refused(es: Elastic, client: httpx.AsyncClient) -> None:
    body = lines(("1", document(a=1))).replace(b'"a":', b'"message":1,"message":')
    [result] = results(await call(client, es, body=body))
    assert "Duplicate field 'message'" in result["error"]["reason"]


async def test_a_pipeline_may_drop_a_document_or_move_it(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    es.switches.pipelines = frozenset({"drop", "move"})
    es.switches.dropping = frozenset({"drop"})
    es.switches.rerouting = {"move": "elsewhere"}
    es.switches.default_pipeline = "drop"
    [dropped] = results(await call(client, es, body=lines(("1", document()))))
    assert (dropped["status"], dropped["result"]) == (200, "noop")
    es.switches.default_pipeline = "move"
    [moved] = results(await call(client, es, body=lines(("1", document()))))
    assert (moved["status"], moved["_index"]) == (201, "elsewhere")
    assert es.stored.total == 1


async def test_an_index_beyond_the_shard_limit_is_not_created(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    es.switches.shard_limit = 0
    [result] = results(await call(client, es, body=lines(("1", document()))))
    assert result["status"] == 400
    assert result["error"]["type"] == "validation_exception"


async def test_too_many_fields_are_refused(es: Elastic, client: httpx.AsyncClient) -> None:
    es.switches.total_fields = 20
    wide = document(**{f"f{number}": number for number in range(20)})
    reply = await call(client, es, body=lines(("1", wide), ("2", document())))
    assert errors(reply) == [(400, "illegal_argument_exception"), (201, None)]


async def test_a_document_that_is_not_json_fails_alone(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    body = b'{"create":{"_index":"plain"}}\n{"a":\n' + GOOD
    for query, shown in (("", True), ("?include_source_on_error=false", False)):
        first, _ = results(await call(client, es, f"/_bulk{query}", body))
        assert first["error"]["type"] == "document_parsing_exception"
        assert ('source: {"a":' in first["error"]["reason"]) is shown


async def test_indices_are_created_or_missing(es: Elastic, client: httpx.AsyncClient) -> None:
    plain = lines(("1", {}), index="plain")
    required = await call(client, es, "/_bulk?require_data_stream=true", plain)
    assert errors(required) == [(404, "index_not_found_exception")]
    bad = lines(("1", {}), index="Upper")
    assert errors(await call(client, es, body=bad)) == [(400, "invalid_index_name_exception")]
    assert errors(await call(client, es, body=plain)) == [(201, None)]
    assert errors(await call(client, es, body=lines(("1", {}), index="plain", verb="index"))) == [
        (201, None)
    ]
    es.switches.auto_create = False
    other = await call(client, es, "/other/_bulk", b'{"create":{}}\n{}\n')
    assert errors(other) == [(404, "index_not_found_exception")]
    missing = await call(client, es, "/other/_count")
    assert (missing.status_code, es.stored.total) == (404, 2)


async def test_documents_that_do_not_map_go_to_the_failure_store(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    es.switches.failure_store = True
    (item,) = results(await call(client, es, body=lines(("1", document(event="text")))))
    assert (item["status"], item["failure_store"]) == (201, "used")
    assert (es.stored.total, es.failures.total) == (0, 1)


async def test_items_fail_by_script(es: Elastic, client: httpx.AsyncClient) -> None:
    es.fail_items(429, where=lambda position, _id: position == 1)
    es.fail_items(503, where=lambda _position, doc_id: doc_id == "3")
    body = lines(*((str(number), document()) for number in range(4)))
    assert errors(await call(client, es, body=body)) == [
        (201, None),
        (429, "es_rejected_execution_exception"),
        (201, None),
        (503, "unavailable_shards_exception"),
    ]
    again = [status for status, _ in errors(await call(client, es, body=body))]
    assert again == [409, 201, 409, 201]
    assert es.stored.total == 4


async def test_an_answer_may_have_too_few_items(es: Elastic, client: httpx.AsyncClient) -> None:
    es.answer_fewer_items(1)
    body = lines(("1", document()), ("2", document()))
    assert len(results(await call(client, es, body=body))) == 1
    assert es.stored.total == 2
    assert len(results(await call(client, es, body=body))) == 2


async def test_filter_path_keeps_what_it_names(es: Elastic, client: httpx.AsyncClient) -> None:
    path = "/_bulk?filter_path=errors,items.*.status,items.*.error.type"
    body = lines(("1", document()), ("1", document()))
    assert (await call(client, es, path, body)).json() == {
        "errors": True,
        "items": [
            {"create": {"status": 201}},
            {"create": {"status": 409, "error": {"type": "version_conflict_engine_exception"}}},
        ],
    }
    only_errors = await call(
        client, es, "/_bulk?filter_path=items.*.error", lines(("2", document()))
    )
    assert only_errors.json() == {}


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        ("a", {"a": [{"b": 1, "c": 2}, {"b": 3}]}),
        ("a.b", {"a": [{"b": 1}, {"b": 3}]}),
        ("a.c", {"a": [{"c": 2}]}),
        ("**.d", {"x": {"y": {"d": 4}}}),
        ("x.*.d", {"x": {"y": {"d": 4}}}),
        ("-a", {"x": {"y": {"d": 4}}}),
        ("a,-a.b", {"a": [{"c": 2}, {}]}),
        ("nothing", {}),
    ],
)
def test_filter_path_by_example(paths: str, kept: Any) -> None:
    value = {"a": [{"b": 1, "c": 2}, {"b": 3}], "x": {"y": {"d": 4}}}
    assert filtered(value, paths.split(",")) == kept


async def test_credentials(es: Elastic, client: httpx.AsyncClient) -> None:
    async def status(**headers: str) -> int:
        return (await client.get(es.url, headers=headers)).status_code

    assert await status() == 401
    assert await status(Authorization="ApiKey wrong") == 401
    assert await status(Authorization=f"ApiKey {es.api_key}") == 200
    old = es.api_key
    es.rotate("new")
    assert await status(Authorization=f"ApiKey {old}") == 401
    assert (await call(client, es, "/", method="GET")).status_code == 200
    refusal = (await client.get(es.url)).json()
    assert refusal["error"]["type"] == "security_exception"


async def test_missing_privileges_are_reported_and_enforced(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    es.switches.missing_privileges = frozenset({"create_doc"})
    asked = {"cluster": ["monitor"], "index": [{"names": [STREAM], "privileges": ["create_doc"]}]}
    answer = (await call(client, es, "/_security/user/_has_privileges", asked)).json()
    assert (answer["has_all_requested"], answer["cluster"]) == (False, {"monitor": True})
    assert answer["index"] == {STREAM: {"create_doc": False}}
    assert errors(await call(client, es, body=GOOD)) == [(403, "security_exception")]
    assert es.stored.total == 0


@pytest.mark.parametrize(
    ("changes", "elastic", "open_search"),
    [
        ({}, 200, 200),
        ({"composed_of": ["absent"]}, 400, 400),
        ({"composed_of": ["a"], "ignore_missing_component_templates": ["a"]}, 200, 400),
        ({"template": {"mappings": {"properties": {"x": {"type": "flattened"}}}}}, 200, 400),
        ({"template": {"mappings": {"properties": {"x": {"type": "flat_object"}}}}}, 400, 200),
    ],
)
async def test_a_template_is_accepted_only_by_the_flavour_that_supports_it(
    changes: dict[str, Any],
    elastic: int,
    open_search: int,
    es: Elastic,
    opensearch: Elastic,
    client: httpx.AsyncClient,
) -> None:
    template = {"index_patterns": ["x-*"], **changes}
    for double, status in ((es, elastic), (opensearch, open_search)):
        reply = await call(client, double, "/_index_template/x", template, "PUT")
        assert reply.status_code == status
        assert double.templates == ({"_index_template/x": template} if status == 200 else {})


async def test_a_template_requires_a_privilege(es: Elastic, client: httpx.AsyncClient) -> None:
    es.switches.missing_privileges = frozenset({"manage_index_templates"})
    for kind in ("_index_template", "_component_template"):
        reply = await call(client, es, f"/{kind}/x", {"index_patterns": ["x-*"]}, "PUT")
        assert reply.status_code == 403
        assert reply.json()["error"]["type"] == "security_exception"
    assert es.templates == {}


async def test_sizes_and_gzip(es: Elastic, client: httpx.AsyncClient) -> None:
    zipped = gzip.compress(lines(("1", document(note="x" * 1000))))
    assert errors(await call(client, es, body=zipped, Content_Encoding="gzip")) == [(201, None)]
    es.switches.max_content_length = 1000  # of the decompressed body
    assert (await call(client, es, body=zipped, Content_Encoding="gzip")).status_code == 413


async def test_stored_documents_can_be_found(es: Elastic, client: httpx.AsyncClient) -> None:
    docs = [(f"u{number}", document(event={"id": f"n{number}"})) for number in range(5)]
    await call(client, es, body=lines(*docs))

    async def found(query: dict[str, Any]) -> list[str]:
        reply = await call(client, es, "/logs-*/_search", {"query": query})
        return [hit["_id"] for hit in reply.json()["hits"]["hits"]]

    assert await found({"ids": {"values": ["u1", "x"]}}) == ["u1"]
    assert await found({"terms": {"event.id": ["n2", "n3"]}}) == ["u2", "u3"]
    assert await found({"bool": {"must_not": [{"exists": {"field": "event.id"}}]}}) == []
    assert len(await found({"range": {"@timestamp": {"gte": "2026-11-20T12:00:00Z"}}})) == 5
    assert await found({"range": {"@timestamp": {"gt": "2026-11-20T12:00:00Z"}}}) == []
    assert (await call(client, es, "/_search", {"query": {"fuzzy": {}}})).status_code == 400
    mget = (await call(client, es, f"/{STREAM}/_mget", {"ids": ["u4", "x"]})).json()["docs"]
    assert [doc["found"] for doc in mget] == [True, False]
    assert es.stored.lost(["n0", "n9"]) == ["n9"]


async def test_templates_health_and_streams_can_be_read(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    assert (await call(client, es, "/_index_template/x", method="GET")).status_code == 404
    await call(client, es, "/_index_template/x", {"index_patterns": ["x-*"]}, "PUT")
    assert (await call(client, es, "/_index_template/x", method="HEAD")).status_code == 200
    health = await call(client, es, "/_cluster/health", method="GET")
    assert health.json()["status"] == "green"
    assert (await call(client, es, f"/_data_stream/{STREAM}", method="GET")).status_code == 404
    await call(client, es, body=GOOD)
    streams = (await call(client, es, f"/_data_stream/{STREAM}", method="GET")).json()
    assert streams["data_streams"][0]["name"] == STREAM
    assert (await call(client, es, "/_bulk", method="GET")).status_code == 405


async def test_the_indices_behind_a_stream_are_shown_with_the_privilege_only(
    es: Elastic, client: httpx.AsyncClient, clock: Any
) -> None:
    dates = f"/{STREAM}/_settings/index.creation_date"
    assert (await call(client, es, dates, method="GET")).status_code == 404
    await call(client, es, body=GOOD)
    clock.advance(86400)
    es.rollover(STREAM)
    answer = (await call(client, es, dates, method="GET")).json()
    assert [name[-17:] for name in answer] == ["2026.11.20-000001", "2026.11.21-000002"]
    first, second = (int(each["settings"]["index"]["creation_date"]) for each in answer.values())
    assert second - first == 86_400_000
    es.switches.missing_privileges = frozenset({"view_index_metadata", "read"})
    for path, method in (
        (dates, "GET"),
        (f"/{STREAM}/_mapping", "GET"),
        (f"/{STREAM}/_search", "POST"),
    ):
        assert (await call(client, es, path, method=method)).status_code == 403
        hidden = await call(client, es, path.replace("cekura", "*"), method=method)
        assert hidden.status_code == 200  # a pattern matches visible indices only
        assert STREAM not in hidden.text


async def test_a_search_reports_failed_shards(es: Elastic, client: httpx.AsyncClient) -> None:
    await call(client, es, body=GOOD)
    first = es.indices[STREAM].write_index
    es.rollover(STREAM)
    await call(client, es, body=lines(("another", document())))
    es.switches.unsearchable = frozenset({first})
    found = (await call(client, es, f"/{STREAM}/_search", {"query": {"match_all": {}}})).json()
    assert found["_shards"]["failed"] == 1
    assert [hit["_id"] for hit in found["hits"]["hits"]] == ["another"]
    es.switches.unsearchable = frozenset(es.indices[STREAM].backing)
    assert (await call(client, es, f"/{STREAM}/_search", {})).status_code == 503


async def test_a_search_by_address_finds_the_field(es: Elastic, client: httpx.AsyncClient) -> None:
    await call(client, es, body=lines(("one", document()), ("two", document())))
    found = await call(client, es, f"/{STREAM}/_search?q=_id:two", method="GET")
    assert [hit["_id"] for hit in found.json()["hits"]["hits"]] == ["two"]
    assert (await call(client, es, f"/{STREAM}/_search?q=two", method="GET")).status_code == 400


async def test_the_mapping_and_the_templates_are_shown(
    es: Elastic, client: httpx.AsyncClient
) -> None:
    await call(client, es, body=lines(("1", document(user={"id": "u", "n": 3})), index="plain"))
    shown = (await call(client, es, "/plain/_mapping", method="GET")).json()
    fields = shown["plain"]["mappings"]["properties"]
    assert fields["user"]["properties"] == {"id": {"type": "text"}, "n": {"type": "long"}}
    assert fields["@timestamp"] == {"type": "date"}
    listed = (await call(client, es, "/_index_template", method="GET")).json()
    assert [each["name"] for each in listed["index_templates"]] == ["logs"]
    es.switches.missing_privileges = frozenset({"manage_index_templates"})
    assert (await call(client, es, "/_index_template", method="GET")).status_code == 403


@pytest.mark.parametrize("parameter", ["require_data_stream", "include_source_on_error"])
async def test_opensearch_does_not_know_the_parameters_of_elasticsearch(
    opensearch: Elastic, client: httpx.AsyncClient, parameter: str
) -> None:
    reply = await call(client, opensearch, f"/_bulk?{parameter}=true", GOOD)
    assert reply.status_code == 400
    assert f"unrecognized parameter: [{parameter}]" in reply.text


async def test_opensearch_differs(opensearch: Elastic, client: httpx.AsyncClient) -> None:
    banner = await call(client, opensearch, "/", method="GET")
    assert banner.json()["version"]["distribution"] == "opensearch"
    assert "x-elastic-product" not in banner.headers
    vnd = "application/vnd.elasticsearch+x-ndjson; compatible-with=9"
    assert (await call(client, opensearch, body=GOOD, Content_Type=vnd)).status_code == 406
    key = {"Authorization": f"ApiKey {opensearch.api_key}"}
    assert (await client.get(opensearch.url, headers=key)).status_code == 401
    opensearch.switches.failure_store = True
    opensearch.fail_items(429)
    body = lines(("1", document()), ("2", document(event="x")), ("3", document()))
    assert errors(await call(client, opensearch, body=body)) == [
        (429, "rejected_execution_exception"),
        (400, "mapper_parsing_exception"),
        (201, None),
    ]


async def test_a_lean_cluster_counts_the_same(es: Elastic, client: httpx.AsyncClient) -> None:
    es.lean = True
    body = b"".join(
        b'{"create":{"_index":"%b","_id":"u%d"}}\n{"event":{"id":"n%d"}}\n'
        % (STREAM.encode(), number, number)
        for number in (1, 2, 2)
    )
    assert [status for status, _ in errors(await call(client, es, body=body))] == [201, 201, 409]
    assert es.stored.by_uid == {"u1": 1, "u2": 1}
    assert es.stored.lost(["n1", "n2", "n3"]) == ["n3"]
    assert (es.stored.total, es.stored.documents) == (2, [])
