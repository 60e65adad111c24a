"""The same requests to a real server and to our double of it, and where their answers differ."""

import gzip
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx

from auditrelay.sandbox.siems.elasticsearch import Elastic
from interop.findings import Findings

_STREAM = "logs-auditrelay.answers-default"
_NDJSON = {"Content-Type": "application/x-ndjson"}
_AT = "2026-01-01T00:00:00Z"


class Question(NamedTuple):
    """A request; *identity* is the right or an unknown user, anonymous, or an unknown API key."""

    what: str
    method: str = "POST"
    path: str = "/_bulk"
    body: bytes = b""
    headers: dict[str, str] = _NDJSON  # never changed
    identity: str = "right"


def _bulk(*documents: Any, index: str = _STREAM, verb: str = "create", **meta: Any) -> bytes:
    lines = []
    for number, document in enumerate(documents):
        action = {"_index": index, "_id": f"id-{number}", **meta}
        lines.append(json.dumps({verb: action}))
        lines.append(document if isinstance(document, str) else json.dumps(document))
    return "".join(f"{line}\n" for line in lines).encode()


def questions(flavour: str) -> Iterator[Question]:  # noqa: PLR0915  # a list
    """Yield the requests, in the required order."""
    good = {"@timestamp": _AT, "message": "m", "event": {"id": "1"}, "number": 1}
    yield Question("a good document", body=_bulk(good))
    yield Question("the same again", body=_bulk(good))
    yield Question("no credentials", body=_bulk(good), identity="anonymous")
    yield Question("an unknown user", body=_bulk(good), identity="unknown")
    yield Question("an unknown API key", body=_bulk(good), identity="key")
    yield Question("an empty body")
    yield Question("no newline at the end", body=_bulk(good).rstrip())
    yield Question("not JSON", body=b"not JSON\n")
    yield Question("a truncated action", body=b'{"create":{"_index":\n{}\n')
    yield Question("an open brace", body=b"{\n{}\n")
    yield Question("an action without a document", body=_bulk(good).split(b"\n")[0] + b"\n")
    yield Question("an unknown action", body=_bulk(good, verb="make"))
    yield Question("an unknown word in an action", body=_bulk(good, colour="red"))
    yield Question("no index", body=b'{"create":{"_id":"x"}}\n{}\n')
    yield Question("an action that is a list", body=b"[]\n{}\n")
    yield Question("blank lines between", body=b"\n" + _bulk(good) + b"\n")
    yield Question("index into a stream", body=_bulk(good, verb="index"))
    yield Question("no time", body=_bulk({"message": "m"}, _id="no-time"))
    times = {"@timestamp": [_AT, _AT]}
    yield Question("two times", body=_bulk(times, _id="two-times"))
    yield Question("an invalid time", body=_bulk({"@timestamp": "soon"}, _id="soon"))
    bad = {**good, "number": "many"}
    yield Question(
        "one of three with another type", body=_bulk(good, bad, good, index="answers-type")
    )
    yield Question(
        "an object instead of a text",
        body=_bulk({"a": "text"}, {"a": {"b": 1}}, {"a": "more"}, index="answers-object"),
    )
    broken = '{"@timestamp": "2026-01-01T00:00:00Z", "message": '
    yield Question(
        "one of three is truncated", body=_bulk(good, broken, good, index="answers-half")
    )
    yield Question("a document that is a list", body=_bulk("[1]", index="answers-list"))
    yield Question("a document that is a text", body=_bulk('"x"', index="answers-text"))
    yield Question("a bad index name", body=_bulk(good, index="Answers"))
    yield Question("an id that is too long", body=_bulk(good, _id="x" * 513))
    yield Question("an id of 512 bytes", body=_bulk(good, index="answers-id", _id="x" * 512))
    yield Question("an empty id", body=_bulk(good, index="answers-id", _id=""))
    yield Question("an unknown parameter", path="/_bulk?colour=red", body=_bulk(good))
    yield Question(
        "include_source_on_error",
        path="/_bulk?include_source_on_error=false",
        body=_bulk(bad, index="answers-type", _id="source"),
    )
    yield Question("require_data_stream", path="/_bulk?require_data_stream=true", body=_bulk(good))
    yield Question("a missing pipeline", path="/_bulk?pipeline=none", body=_bulk(good))
    yield Question(
        "filter_path",
        path="/_bulk?filter_path=errors,items.*.status,items.*.error",
        body=_bulk(good, bad, index="answers-type"),
    )
    yield Question("GET", method="GET", body=_bulk(good))
    yield Question("a wrong path", path="/_bulks", body=_bulk(good))
    yield Question("a longer wrong path", path="/a/b/c", body=_bulk(good))
    yield Question("another content type", body=_bulk(good), headers={"Content-Type": "text/x"})
    yield Question("no content type", body=_bulk(good), headers={})
    zipped = {**_NDJSON, "Content-Encoding": "gzip"}
    yield Question("gzip", body=gzip.compress(_bulk(good)), headers=zipped)
    yield Question("gzip, broken", body=b"not gzip", headers=zipped)
    yield Question("gzip, cut off", body=gzip.compress(_bulk(good) * 99)[:-20], headers=zipped)
    unknown = {**_NDJSON, "Content-Encoding": "unknown"}
    yield Question("bytes in an unknown encoding", body=b"\x28\xb5\n", headers=unknown)
    yield Question("an unknown encoding", body=_bulk(good), headers=unknown)
    yield Question("a missing template", method="GET", path="/_index_template/none")
    privileges = {"index": [{"names": ["logs-x-y"], "privileges": ["create_doc"]}]}
    if flavour == "elasticsearch":
        yield Question(
            "rights",
            path="/_security/user/_has_privileges",
            body=json.dumps(privileges).encode(),
            headers={"Content-Type": "application/json"},
        )


class Answer(NamedTuple):
    """What a client evaluates: the status, the kind of error, and both of each item."""

    status: int
    kind: str
    items: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, response: httpx.Response | None) -> "Answer":
        """Extract it from *response*; None is a connection closed without an answer."""
        if response is None:
            return cls(0, "closed", ())
        try:
            value = response.json()
        except ValueError:
            return cls(response.status_code, f"not JSON: {response.text[:40]!r}", ())
        error = value.get("error")
        kind = str(error.get("type")) if isinstance(error, dict) else "text" if error else ""
        items = tuple(
            (verb, result["status"], str(result.get("error", {}).get("type", "")))
            for item in value.get("items", [])
            for verb, result in item.items()
        )
        return cls(response.status_code, kind, items)


async def compare(url: str, identity: dict[str, str], double: Elastic, findings: Findings) -> None:
    """Send the same requests to the server at *url* and to the *double*, and record differences."""
    print(f"the same requests to the server and to our double of {double.flavour}")
    double.security = bool(identity)
    real = {"right": (identity["username"], identity["password"]) if identity else None}
    ours = {"right": (double.username, double.password)}
    # A connection for each request: servers close them after some of these.
    once = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=once) as client:
        for question in questions(double.flavour):
            if question.identity != "right" and not identity:
                continue
            seen = Answer.of(await _ask(client, url, question, real["right"]))
            doubled = Answer.of(await _ask(client, double.url, question, ours["right"]))
            findings.check(
                f"the double answers the same: {question.what} ({seen.status})",
                ok=seen == doubled,
                seen=f"\n          server {tuple(seen)}\n          double {tuple(doubled)}",
            )


async def _ask(
    client: httpx.AsyncClient, url: str, question: Question, right: tuple[str, str] | None
) -> httpx.Response | None:
    headers = dict(question.headers)
    auth = right
    if question.identity != "right":
        auth = ("elastic", "wrong") if question.identity == "unknown" else None
    if question.identity == "key":
        headers["Authorization"] = "ApiKey bm9ib2R5OndpdGgtYS1zZWNyZXQ="
    try:
        return await client.request(
            question.method, url + question.path, content=question.body, headers=headers, auth=auth
        )
    except httpx.RemoteProtocolError:
        return None
