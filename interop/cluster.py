"""What a real cluster must store, find and refuse after auditrelay has written to it."""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import msgspec
from tests.siem import test_detections as detections
from tests.siem.seen import GOLDEN, normalized
from tests.support import daemon

from auditrelay.clock import Clock
from auditrelay.events import AuditEvent, Outcome
from auditrelay.events.classify import KINDS, VERBS
from auditrelay.events.page import Page
from auditrelay.sandbox import Sandbox
from auditrelay.sinks import Item, elasticsearch
from auditrelay.sinks.elasticsearch.templates import templates
from auditrelay.telemetry.metrics import Metrics
from interop import evidence, vendors
from interop.findings import Findings
from interop.vendors import Made

STREAMS = "logs-auditrelay.*-default"
SEALED = "auditrelay.ledger_sealed"
REDUCED = "auditrelay.reduced"
"""The action of the copy that is sent in place of a refused event."""

Flavour = Literal["elasticsearch", "opensearch"]


class Cluster:
    """A client for direct queries to the cluster."""

    def __init__(self, url: str, flavour: Flavour, identity: dict[str, str]) -> None:
        self.url = url
        self.flavour = flavour
        self.identity = identity
        """``username`` and ``password``, or empty if the cluster has no users."""
        auth = (identity["username"], identity["password"]) if identity else None
        self._client = httpx.Client(base_url=url, auth=auth, trust_env=False, timeout=120)

    def ask(self, method: str, path: str, body: Any = None, **parameters: str) -> Any:
        """Return the JSON answer, whatever its status."""
        answer = self._client.request(method, path, json=body, params=parameters)
        return answer.json()

    def documents(self, names: str, query: Any = None) -> Iterator[dict[str, Any]]:
        """
        Yield every document that *query* finds, each with ``_id``, ``_index``, ``_source``.

        The heads of the evidence are left out, which no vendor has made.
        """
        self.ask("POST", f"/{names}/_refresh")
        body = {"size": 500, "query": query or {"match_all": {}}, "sort": ["_doc"]}
        page = self.ask("POST", f"/{names}/_search", body, scroll="1m")
        while page["hits"]["hits"]:
            hits = page["hits"]["hits"]
            yield from (hit for hit in hits if hit["_source"]["event"]["action"] != SEALED)
            page = self.ask(
                "POST", "/_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]}
            )
        self.ask("DELETE", "/_search/scroll", {"scroll_id": page["_scroll_id"]})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


async def prove(cluster: Cluster, findings: Findings) -> None:
    """Run auditrelay against *cluster* and record all checks."""
    async with Sandbox() as sandbox:
        vendors.fill(sandbox)
        made = vendors.made(sandbox)
        with tempfile.TemporaryDirectory(prefix="interop-") as name:
            folder = Path(name)
            await _prepare(cluster, sandbox, folder, findings)
            await _deliver(cluster, sandbox, made, folder, findings)
            await evidence.prove(cluster, folder, findings)
            await _repeat(cluster, sandbox, len(made), folder, findings)
            await _plain(cluster, sandbox, made, folder, findings)
            await _refusals(cluster, sandbox, folder, findings)
            await _pipeline(cluster, sandbox, folder, findings)
            if cluster.identity:
                await _rights(cluster, sandbox, folder, findings)
    _search(cluster, findings)
    await _detect(cluster, findings)


def configure(folder: Path, name: str, sandbox: Sandbox, cluster: Cluster, **sink: Any) -> Path:
    """Write a configuration with an empty state, so that all events are new."""
    place = folder / name
    place.mkdir()
    table = {
        "type": "elasticsearch",
        "urls": [cluster.url],
        "linger": "20ms",
        **cluster.identity,
        **sink,
    }
    return daemon.configure(place, vendors.sources(sandbox), {"cluster": table})


async def once(config: Path, findings: Findings) -> None:
    """Run once over all events; the exit status must be 0."""
    ended = await daemon.command(config, "run", "--once", within=400)
    tail = "\n".join(ended.stderr.splitlines()[-5:])
    findings.check("run --once exits with 0", ok=ended.status == 0, seen=tail)


async def state(config: Path) -> dict[str, Any]:
    """Return the only sink of ``status --json``."""
    ended = await daemon.command(config, "status", "--json")
    [sink] = json.loads(ended.stdout)["sinks"]
    found: dict[str, Any] = sink
    return found


async def _prepare(cluster: Cluster, sandbox: Sandbox, folder: Path, findings: Findings) -> None:
    print("check and setup")
    config = configure(folder, "prepare", sandbox, cluster)
    version = cluster.ask("GET", "/")["version"]["number"]
    ended = await daemon.command(config, "check")
    findings.same("check exits with 0", ended.status, 0)
    findings.check(
        f"check names version {version}",
        ok=f"(version {version})" in _joined(ended.stdout),
        seen=ended.stdout,
    )
    await _set_up(cluster, config, findings)
    simulated = cluster.ask(
        "POST", "/_index_template/_simulate_index/logs-auditrelay.bland-default"
    )
    mapped = simulated.get("template", {}).get("mappings", {}).get("properties", {})
    wanted = {"elasticsearch": "flattened", "opensearch": "flat_object"}[cluster.flavour]
    findings.same(
        "a new stream would have the template's mapping",
        mapped.get("auditrelay", {}).get("properties", {}).get("changes", {}).get("type"),
        wanted,
    )


async def _set_up(cluster: Cluster, config: Path, findings: Findings) -> None:
    """Install the templates: by the command, or by hand if the server lacks plugins."""
    if cluster.flavour == "opensearch":
        ended = await daemon.command(config, "setup", "elasticsearch")
        said = ended.stdout + ended.stderr
        findings.check("setup installs the templates", ok=ended.status == 0, seen=said)
        return
    # Two types are in plugins of Elasticsearch that Maven Central does not have.
    ended = await daemon.command(config, "setup", "elasticsearch")
    findings.check(
        "setup reports what is missing, and exits with 1",
        ok=ended.status == 1 and "The mapper type [match_only_text]" in ended.stderr,
        seen=ended.stdout + ended.stderr,
    )
    for path, template in templates(opensearch=False).items():
        text = json.dumps(template)
        for missing, instead in (("constant_keyword", "keyword"), ("match_only_text", "text")):
            text = text.replace(f'"type": "{missing}"', f'"type": "{instead}"')
        findings.same(
            f"PUT {path} with available types",
            cluster.ask("PUT", path, json.loads(text)),
            {"acknowledged": True},
        )


def _joined(table: str) -> str:
    """Return the words of a table whose cells are wrapped."""
    cells = [line.split("│")[-2].strip() for line in table.splitlines() if line.count("│") > 2]
    return " ".join(cells)


async def _deliver(
    cluster: Cluster, sandbox: Sandbox, made: list[Made], folder: Path, findings: Findings
) -> None:
    print(f"{len(made)} events, gzip, into data streams")
    config = configure(folder, "gzip", sandbox, cluster)
    await once(config, findings)
    sink = await state(config)
    findings.same("no dead letters", sink["dead_letters"], 0)
    findings.same("no backlog", sink["backlog_events"], 0)
    # not _data_stream, which this Elasticsearch has no handler for: it comes with a module
    streams = cluster.ask("GET", f"/_resolve/index/{STREAMS}").get("data_streams", [])
    findings.same(
        "a data stream for each vendor",
        sorted(stream["name"] for stream in streams),
        [
            f"logs-auditrelay.{name}-default"
            for name in ("auditrelay", "bland", "cekura", "jitsudo", "slaunch")
        ],
    )
    compare(list(cluster.documents(STREAMS)), made, findings)


def compare(documents: list[dict[str, Any]], made: list[Made], findings: Findings) -> None:
    """Check that *documents* are exactly what was *made*, each once, unchanged."""
    wanted = {(each.source, each.id): each for each in made}
    times = Counter(_key(document) for document in documents)
    findings.none("every event is stored", wanted.keys() - times.keys())
    findings.none("nothing else is stored", times.keys() - wanted.keys())
    findings.none("every event is stored once", [key for key, n in times.items() if n > 1])
    wrong_time, wrong_record, wrong_id = [], [], []
    for document in documents:
        each, source = wanted.get(_key(document)), document["_source"]
        if each is None:
            continue
        # ECS has milliseconds
        at = datetime.fromisoformat(source["@timestamp"]).timestamp()
        if round(at * 1000) != each.at // 1000:
            wrong_time.append((each.id, source["@timestamp"]))
        if json.loads(source["event"]["original"]) != each.record:
            wrong_record.append(each.id)
        if document["_id"] != source["auditrelay"]["uid"]:
            wrong_id.append(each.id)
    findings.none("every event has its own time", wrong_time)
    findings.none("every record is exactly as the vendor sent it", wrong_record)
    findings.none("_id is the uid", wrong_id)


def _key(document: dict[str, Any]) -> tuple[str, str]:
    source = document["_source"]
    return source["auditrelay"]["source_instance"], source["event"]["id"]


async def _repeat(
    cluster: Cluster, sandbox: Sandbox, count: int, folder: Path, findings: Findings
) -> None:
    print("the same again, by an instance with an empty state")
    config = configure(folder, "again", sandbox, cluster)
    await once(config, findings)
    findings.same("no dead letters", (await state(config))["dead_letters"], 0)
    findings.same("nothing is stored twice", len(list(cluster.documents(STREAMS))), count)


async def _plain(
    cluster: Cluster, sandbox: Sandbox, made: list[Made], folder: Path, findings: Findings
) -> None:
    print("uncompressed, into plain indices by month")
    config = configure(
        folder, "plain", sandbox, cluster, compression="none", index="audit-{vendor}-%Y.%m"
    )
    # plain indices have no template of ours unless the operator creates one
    template = {
        "index_patterns": ["audit-*"],
        "priority": 500,
        "composed_of": ["auditrelay@mappings"],
    }
    findings.same(
        "the component template can be used in a custom template",
        cluster.ask("PUT", "/_index_template/audit", template),
        {"acknowledged": True},
    )
    await once(config, findings)
    findings.same("no dead letters", (await state(config))["dead_letters"], 0)
    documents = list(cluster.documents("audit-*"))
    compare(documents, made, findings)
    findings.none(
        "every index is named after vendor and month",
        {
            document["_index"]
            for document in documents
            if document["_index"]
            != "audit-{}-{}".format(
                document["_source"]["event"]["module"],
                document["_source"]["@timestamp"][:7].replace("-", "."),
            )
        },
    )


async def _refusals(cluster: Cluster, sandbox: Sandbox, folder: Path, findings: Findings) -> None:
    print("a mapping that refuses some of the events")
    cluster.ask("PUT", "/refusing", {"mappings": {"properties": {"source": {"type": "keyword"}}}})
    config = configure(folder, "refusals", sandbox, cluster, index="refusing")
    await once(config, findings)
    documents = list(cluster.documents(STREAMS))
    wanted = {each["_id"] for each in documents}
    refused = {each["_id"] for each in documents if "source" in each["_source"]}
    ended = await daemon.command(config, "dead-letters", "list", "--json")
    letters = json.loads(ended.stdout)
    dead = {each["uid"] for each in letters}
    stored = list(cluster.documents("refusing"))
    copies = [each for each in stored if each["_source"]["event"]["action"] == REDUCED]
    taken = {each["_id"] for each in stored} - {each["_id"] for each in copies}
    findings.check(
        f"some are refused ({len(dead)}) and some are stored ({len(taken)})",
        ok=bool(dead and taken),
    )
    # The copy of an event with an address has the field that is refused here, too.
    dead, dead_copies = dead & wanted, dead - wanted
    findings.none("every event that the mapping refuses is a dead letter", refused - dead)
    findings.none("nothing is both", dead & taken)
    findings.same("every event is one or the other", len(dead | taken), len(wanted))
    reduced = {each["_source"]["event"]["id"] for each in copies}
    findings.none("a reduced copy is that of a dead letter", reduced - dead)
    findings.same("every dead letter has one", len(reduced) + len(dead_copies), len(dead))
    findings.same("a dead letter has the status", {each["status"] for each in letters}, {400})
    print(f"        reason {letters[0]['reason']}: {letters[0]['message']}" if letters else "")


async def _pipeline(cluster: Cluster, sandbox: Sandbox, folder: Path, findings: Findings) -> None:
    print("a missing pipeline")
    config = configure(folder, "pipeline", sandbox, cluster, pipeline="none")
    say = "pipeline with id [none] does not exist"
    await _fails("run --once", config, ["run", "--once"], say, findings)
    findings.check("and holds the sink", ok=bool((await state(config))["held"]))
    findings.same("and loses nothing", (await state(config))["dead_letters"], 0)


async def _rights(cluster: Cluster, sandbox: Sandbox, folder: Path, findings: Findings) -> None:
    print("users with few rights, and an unknown user")
    password = cluster.identity["password"]
    before = len(list(cluster.documents(STREAMS)))
    writer = {"username": "writer", "password": password}

    stranger = {"username": "writer", "password": "wrong"}
    config = configure(folder, "stranger", sandbox, cluster, **stranger)
    await _fails("check with a wrong password", config, ["check"], "401", findings)
    await _fails("run --once with a wrong password", config, ["run", "--once"], "401", findings)
    findings.check("and holds the sink", ok=bool((await state(config))["held"]))
    findings.same("and loses nothing", (await state(config))["dead_letters"], 0)

    config = configure(folder, "elsewhere", sandbox, cluster, index="other-{vendor}", **writer)
    await _fails("check without a right", config, ["check"], "no privilege to write", findings)
    await _fails("run --once without a right", config, ["run", "--once"], "unauthorized", findings)
    findings.same("and loses nothing", (await state(config))["dead_letters"], 0)

    config = configure(folder, "writer", sandbox, cluster, **writer)
    words = ["setup", "elasticsearch"]
    await _fails(
        "setup by a user who may only send", config, words, "manage_index_templates", findings
    )
    ended = await daemon.command(config, "check")
    findings.check(
        "check by a user who may only send",
        ok=ended.status == 0 and "can be written to" in _joined(ended.stdout),
        seen=ended.stdout + ended.stderr,
    )
    await once(config, findings)
    findings.same("no dead letters", (await state(config))["dead_letters"], 0)
    findings.same("nothing is stored twice", len(list(cluster.documents(STREAMS))), before)
    index = "logs-auditrelay.{vendor}-writer"
    config = configure(folder, "create", sandbox, cluster, index=index, **writer)
    await once(config, findings)
    made = len(list(cluster.documents("logs-auditrelay.*-writer")))
    findings.same("create_doc and auto_configure are enough for new streams", made, before)


async def _fails(what: str, config: Path, words: list[str], say: str, findings: Findings) -> None:
    ended = await daemon.command(config, *words, within=400)
    said = ended.stdout + ended.stderr
    # tables on standard output are wrapped
    found = say in said or say in _joined(ended.stdout)
    findings.check(
        f"{what} exits with 1 and reports {say!r}",
        ok=ended.status == 1 and found,
        seen=said[-600:],
    )


def _search(cluster: Cluster, findings: Findings) -> None:
    print("the fields can be searched by")
    documents = {each["_id"]: each["_source"] for each in cluster.documents(STREAMS)}

    def found(query: dict[str, Any]) -> set[str]:
        return {each["_id"] for each in cluster.documents(STREAMS, query)}

    def where(right: Any) -> set[str]:
        return {uid for uid, source in documents.items() if right(source)}

    middle = sorted(source["@timestamp"] for source in documents.values())[len(documents) // 2]
    user = next(s["user"]["email"] for s in documents.values() if s.get("user", {}).get("email"))
    questions: dict[str, tuple[dict[str, Any], set[str]]] = {
        "@timestamp, as a time": (
            {"range": {"@timestamp": {"gte": middle}}},
            where(lambda s: s["@timestamp"] >= middle),
        ),
        "event.created, as a time": (
            {"range": {"event.created": {"gte": "now-1h", "lte": "now"}}},
            set(documents),
        ),
        "user.email": (
            {"term": {"user.email": user}},
            where(lambda s: s.get("user", {}).get("email") == user),
        ),
        "related.user": (
            {"term": {"related.user": user}},
            where(lambda s: user in s.get("related", {}).get("user", [])),
        ),
        "source.ip, as a network": (
            {"term": {"source.ip": "203.0.113.0/28"}},
            where(
                lambda s: (
                    s.get("source", {}).get("ip", "").startswith("203.0.113.")
                    and int(s["source"]["ip"].rpartition(".")[2]) < 16
                )
            ),
        ),
        "event.category, one of several": (
            {"term": {"event.category": "configuration"}},
            where(lambda s: "configuration" in s["event"].get("category", [])),
        ),
        "data_stream.dataset": (
            {"term": {"data_stream.dataset": "auditrelay.bland"}},
            where(lambda s: s["event"]["module"] == "bland"),
        ),
        "a vendor's details": (
            {"term": {"bland.audit.metadata.environment": "production"}},
            where(
                lambda s: (
                    ((s.get("bland") or {}).get("audit", {}).get("metadata") or {}).get(
                        "environment"
                    )
                    == "production"
                )
            ),
        ),
        "words of the message": (
            {"match_phrase": {"message": user}},
            where(lambda s: re.search(rf"\b{re.escape(user)}\b", s["message"])),
        ),
    }
    for what, (query, wanted) in questions.items():
        hits = found(query)
        findings.check(
            f"{what} ({len(hits)} found)",
            ok=hits == wanted and bool(wanted),
            seen=f"{len(hits - wanted)} too many, {len(wanted - hits)} too few",
        )


async def _detect(cluster: Cluster, findings: Findings) -> None:
    """Send an event of every kind and verb, and run the queries of the detections."""
    print("the detections of siem/elasticsearch")
    events = list(_every_meaning())
    settings = elasticsearch.Settings.model_validate(
        {
            "type": "elasticsearch",
            "urls": [cluster.url],
            "index": "logs-auditrelay.{vendor}-detections",
            **cluster.identity,
        }
    )
    sink = elasticsearch.build("cluster", settings, Metrics(), Clock())
    size = 2000
    for first in range(0, len(events), size):
        page = Page.of(events[first : first + size])
        rendered = sink.render(page, 0)
        batch = Item.of_page(range(len(page)), page, rendered, sink.limits)
        verdict = await sink.send(batch)
        findings.none("nothing is refused", [*verdict.rejected, *verdict.retry])
    await sink.close()
    for question, title in detections.NAMES.items():
        rule = detections.elastic_rules()[title]
        hits = cluster.documents(
            "logs-auditrelay.*-detections", {"query_string": {"query": _lucene(rule["query"])}}
        )
        found = {each["_id"] for each in hits}
        right = {event.uid for event in events if detections.expected(question, event)}
        findings.check(
            f"{title} ({len(found)} of {len(events)})",
            ok=found == right and bool(right),
            seen=f"{len(found - right)} too many, {len(right - found)} too few",
        )


def _lucene(kql: str) -> str:
    """Translate a Kibana query to Lucene: for the detections only the operators' case differs."""
    parts = re.split(r'("[^"]*")', kql)
    return "".join(
        part if part.startswith('"') else re.sub(r"\b(and|or|not)\b", lambda m: m[0].upper(), part)
        for part in parts
    )


def _every_meaning() -> Iterator[AuditEvent]:
    """Yield an event of every kind, verb and outcome, each with its own uid."""
    vendor = "bland"
    path = next(path for path in GOLDEN if path.parent.name == vendor)
    base = normalized(vendor, json.loads(path.read_bytes())["record"])
    meanings = product(KINDS, VERBS, (*get_args(Outcome), None))
    for number, (kind, verb, outcome) in enumerate(meanings):
        uid = hashlib.sha256(b"%d" % number).hexdigest()[:40]
        yield msgspec.structs.replace(base, uid=uid, kind=kind, verb=verb, outcome=outcome)
