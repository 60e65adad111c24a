"""The doubles are faithful: the products' own client libraries work with them."""

# mypy: disable-error-code="no-untyped-call"
# (datadog_api_client claims to be typed, but its constructors are not)

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from auditrelay.sandbox import faults
from auditrelay.sandbox.siems.datadog import Datadog
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sandbox.siems.splunk_hec import Splunk

with warnings.catch_warnings():
    # splunk_handler 3.0.0 reaches requests' copy of urllib3, whose modules warn when imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from splunk_handler import SplunkHandler  # type: ignore[import-untyped]  # it has no types

from datadog_api_client import ApiClient, Configuration
from datadog_api_client.exceptions import ApiException
from datadog_api_client.v1.api.authentication_api import AuthenticationApi
from datadog_api_client.v2.api.logs_api import LogsApi
from datadog_api_client.v2.model.content_encoding import ContentEncoding
from datadog_api_client.v2.model.http_log import HTTPLog
from datadog_api_client.v2.model.http_log_item import HTTPLogItem
from elasticsearch import Elasticsearch, UnsupportedProductError
from elasticsearch import helpers as elasticsearch_helpers
from opensearchpy import OpenSearch
from opensearchpy import helpers as opensearch_helpers
from opensearchpy.exceptions import AuthenticationException

STREAM = "logs-auditrelay.bland-default"


def actions(count: int) -> list[dict[str, Any]]:
    return [
        {
            "_op_type": "create",
            "_index": STREAM,
            "_id": f"u{number}",
            "@timestamp": "2026-11-20T12:00:00Z",
            "event": {"id": f"n{number}"},
        }
        for number in range(count)
    ]


@pytest.fixture
async def es() -> AsyncIterator[Elastic]:
    async with Elastic() as es:
        yield es


async def test_elasticsearch_py_creates_and_gets_conflicts(es: Elastic) -> None:
    def use() -> tuple[int, list[Any], int, bool]:
        with Elasticsearch(es.url, api_key=es.api_key, http_compress=True) as client:
            assert client.info()["version"]["number"].startswith("9.")
            first, _ = elasticsearch_helpers.bulk(client, actions(700))
            _, failed = elasticsearch_helpers.bulk(client, actions(702), raise_on_error=False)
            assert isinstance(failed, list)
            granted = client.security.has_privileges(
                index=[{"names": [STREAM], "privileges": ["create_doc"]}]
            )
            return first, failed, client.count(index=STREAM)["count"], granted["has_all_requested"]

    first, failed, count, granted = await asyncio.to_thread(use)
    assert first == 700
    assert len(failed) == 700
    assert {item["create"]["status"] for item in failed} == {409}
    assert (count, granted) == (702, True)
    assert es.stored.lost([f"n{number}" for number in range(703)]) == ["n702"]
    assert es.stored.repeated() == {}


async def test_elasticsearch_py_retries_items_with_429(es: Elastic) -> None:
    es.fail_items(429, times=3)

    def use() -> int:
        with Elasticsearch(es.url, api_key=es.api_key) as client:
            results = elasticsearch_helpers.streaming_bulk(
                client, actions(10), max_retries=2, initial_backoff=0, raise_on_error=False
            )
            return sum(good for good, _ in results)

    assert await asyncio.to_thread(use) == 10
    assert es.stored.total == 10


async def test_elasticsearch_py_reads_back_by_id(es: Elastic) -> None:
    def use() -> tuple[list[bool], list[str]]:
        with Elasticsearch(es.url, basic_auth=(es.username, es.password)) as client:
            elasticsearch_helpers.bulk(client, actions(3))
            docs = client.mget(index=STREAM, ids=["u1", "u9"])["docs"]
            hits = client.search(index=STREAM, query={"terms": {"event.id": ["n0", "n2"]}})
            return (
                [doc["found"] for doc in docs],
                [hit["_id"] for hit in hits["hits"]["hits"]],
            )

    assert await asyncio.to_thread(use) == ([True, False], ["u0", "u2"])


async def test_elasticsearch_py_refuses_the_opensearch_flavour() -> None:
    async with Elastic(flavour="opensearch") as opensearch:

        def use() -> None:
            auth = (opensearch.username, opensearch.password)
            with Elasticsearch(opensearch.url, basic_auth=auth) as client:
                client.info()

        with pytest.raises(UnsupportedProductError):
            await asyncio.to_thread(use)


async def test_opensearch_py_creates_and_gets_conflicts() -> None:
    async with Elastic(flavour="opensearch") as opensearch:

        def use(password: str) -> tuple[int, list[Any]]:
            client = OpenSearch(
                opensearch.url, http_auth=(opensearch.username, password), http_compress=True
            )
            assert client.info()["version"]["distribution"] == "opensearch"
            first, _ = opensearch_helpers.bulk(client, actions(700))
            _, failed = opensearch_helpers.bulk(client, actions(701), raise_on_error=False)
            client.close()
            assert isinstance(failed, list)
            return first, failed

        first, failed = await asyncio.to_thread(use, opensearch.password)
        assert first == 700
        assert {item["create"]["status"] for item in failed} == {409}
        assert opensearch.stored.total == 701
        with pytest.raises(AuthenticationException):
            await asyncio.to_thread(use, "wrong")


def datadog_configuration(intake: Datadog, key: str) -> Configuration:
    configuration = Configuration(host=intake.url, api_key={"apiKeyAuth": key})
    # The operation has its own servers; the second one accepts any protocol and name.
    operation = "v2.submit_log"
    configuration.server_operation_index[operation] = 1
    configuration.server_operation_variables[operation] = {
        "protocol": "http",
        "name": f"127.0.0.1:{intake.port}",
    }
    return configuration


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
async def test_the_datadog_client_submits_logs(encoding: str) -> None:
    async with Datadog() as intake:

        def use() -> tuple[Any, bool]:
            with ApiClient(datadog_configuration(intake, intake.api_key)) as client:
                items = [
                    HTTPLogItem(message="x", ddsource="bland", evt={"id": f"u{number}"})
                    for number in range(3)
                ]
                reply = LogsApi(client).submit_log(
                    HTTPLog(items), content_encoding=ContentEncoding(encoding)
                )
                return reply, AuthenticationApi(client).validate().valid

        reply, valid = await asyncio.to_thread(use)
        assert (reply, valid) == ({}, True)
        assert set(intake.stored.by_uid) == {"u0", "u1", "u2"}
        assert intake.stored.documents[0]["ddsource"] == "bland"


async def test_the_datadog_client_understands_a_refusal() -> None:
    async with Datadog() as intake:

        def use() -> None:
            with ApiClient(datadog_configuration(intake, "wrong")) as client:
                LogsApi(client).submit_log(HTTPLog([HTTPLogItem(message="x")]))

        with pytest.raises(ApiException) as refused:
            await asyncio.to_thread(use)
        assert refused.value.status == 403
        assert intake.stored.total == 0


async def send_by_splunk_handler(hec: Splunk, token: str, count: int) -> None:
    """Log *count* lines through splunk_handler over plain HTTP, and wait until it gives up."""

    def use() -> None:
        handler = SplunkHandler(
            host="127.0.0.1",
            port=str(hec.port),
            protocol="http",
            token=token,
            index="main",
            sourcetype="test",
            verify=False,
            flush_interval=0,
            retry_count=2,
            retry_backoff=0.01,
        )
        logger = logging.Logger("independent")  # noqa: LOG001  # not shared with any other test
        logger.addHandler(handler)
        for number in range(count):
            logger.warning("line %d", number)
        handler.force_flush()
        handler.close()

    await asyncio.to_thread(use)


def lines(hec: Splunk) -> list[str]:
    return [str(document["event"]).strip('"') for document in hec.stored.documents]


async def test_splunk_handler_delivers() -> None:
    async with Splunk() as hec:
        await send_by_splunk_handler(hec, hec.token, 3)
        assert lines(hec) == ["line 0", "line 1", "line 2"]
        assert {document["sourcetype"] for document in hec.stored.documents} == {"test"}


async def test_splunk_handler_retries_after_a_503() -> None:
    async with Splunk() as hec:
        hec.faults.add(faults.html(503), method="POST")
        await send_by_splunk_handler(hec, hec.token, 1)
        assert hec.answered == {503: 1, 200: 1}
        assert lines(hec) == ["line 0"]


async def test_splunk_handler_is_refused_with_a_wrong_token() -> None:
    async with Splunk() as hec:
        await send_by_splunk_handler(hec, "wrong", 1)
        assert set(hec.answered) == {403}
        assert hec.stored.total == 0
