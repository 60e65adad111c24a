"""
Objects in versitygw, an S3 server that is not ours, and that refuses what S3 refuses.

It is built by Go's own tools, from the version that is named here. It raises a notification for
each object that is created, which a server of ours counts.
"""

import asyncio
import gzip
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.support import daemon

from auditrelay.sandbox import Sandbox
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.server import Double
from auditrelay.sandbox.siems.object_storage import Bucket
from auditrelay.store.sql import seals
from auditrelay.store.sqlite.store import open_view
from interop import golang, vendors
from interop.cluster import once
from interop.findings import Findings
from interop.receiver import Missing

_PROGRAM = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
_KEY_ID = "AKIAINTEROPNOTREAL00"
_SECRET = "interop/secret+that/is+not+real"
_BUCKET = "audit-archive"
_REGION = "eu-central-1"
_READY_TIMEOUT = 60.0

KILLS = int(os.environ.get("INTEROP_KILLS", "200"))
"""How often the service is killed."""


class Notified(Double):
    """Where notifications go: how often each key was created."""

    def __init__(self) -> None:
        super().__init__()
        self.created: Counter[str] = Counter()

    def respond(self, request: Request) -> Response:
        """Count the objects that were created."""
        for record in json.loads(request.body).get("Records") or ():
            if str(record.get("eventName", "")).startswith("s3:ObjectCreated"):
                self.created[record["s3"]["object"]["key"]] += 1
        return Response(200)


@dataclass
class Gateway:
    """A running versitygw, with one bucket."""

    url: str
    s3: Any
    notified: Notified

    def settings(self, **keys: Any) -> dict[str, Any]:
        """Return the settings of a sink that sends to it."""
        return {
            "type": "object_storage",
            "endpoint": self.url,
            "bucket": _BUCKET,
            "region": _REGION,
            "access_key_id": _KEY_ID,
            "secret_access_key": _SECRET,
            "linger": "20ms",
            **keys,
        }

    def objects(self) -> dict[str, list[Any]]:
        """Return the events of each object, by its key."""
        found: dict[str, list[Any]] = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET):
            for each in page.get("Contents", ()):
                body = self.s3.get_object(Bucket=_BUCKET, Key=each["Key"])["Body"].read()
                found[each["Key"]] = [
                    json.loads(line) for line in gzip.decompress(body).split(b"\n") if line
                ]
        return found


@contextmanager
def _serving(program: Path, folder: Path, webhook: str) -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    store = folder / "objects"
    store.mkdir()
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            [
                str(program),
                *("--port", address, "--region", _REGION, "--event-webhook-url", webhook),
                *("posix", "--sidecar", str(folder), str(store)),
            ],
            env={**os.environ, "ROOT_ACCESS_KEY": _KEY_ID, "ROOT_SECRET_KEY": _SECRET},
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + _READY_TIMEOUT
            while not _listens(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Missing(f"versitygw did not start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.1)
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait()


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as asking:
        return asking.connect_ex((host, int(port))) == 0


def client(url: str) -> Any:
    """Return AWS's own client."""
    return botocore.session.get_session().create_client(
        "s3",
        region_name=_REGION,
        endpoint_url=url,
        aws_access_key_id=_KEY_ID,
        aws_secret_access_key=_SECRET,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    """Run versitygw on a free port, with a bucket in it."""
    program = golang.build("versitygw", _PROGRAM)
    async with Notified() as notified:
        with tempfile.TemporaryDirectory(prefix="interop-versitygw-") as folder:
            # In a thread: it looks for the webhook when it starts.
            serving = _serving(program, Path(folder), notified.url)
            url = await asyncio.to_thread(serving.__enter__)
            try:
                s3 = client(url)
                await asyncio.to_thread(lambda: s3.create_bucket(Bucket=_BUCKET))
                yield Gateway(url, s3, notified)
            finally:
                await asyncio.to_thread(serving.__exit__, None, None, None)


async def prove(findings: Findings) -> None:
    """Send everything to versitygw, compare its refusals with the double's, and kill often."""
    async with gateway() as server:
        await _everything(server, findings)
    async with gateway() as server, Bucket() as double:
        await _refusals(server, double, findings)
    async with gateway() as server:
        await _kills(server, findings)


async def _everything(server: Gateway, findings: Findings) -> None:
    print("every event, as the documentation says")
    async with Sandbox() as sandbox:
        vendors.fill(sandbox)
        made = vendors.made(sandbox)
        with tempfile.TemporaryDirectory() as folder:
            sinks = {"archive": server.settings(prefix="audit/", format="raw", batch_events=200)}
            config = daemon.configure(Path(folder), vendors.sources(sandbox), sinks)
            ended = await daemon.command(config, "check")
            findings.check("check exits with 0", ok=ended.status == 0, seen=ended.stdout)
            await once(config, findings)
            ended = await daemon.command(config, "status", "--json")
            [sink] = json.loads(ended.stdout)["sinks"]
            findings.same("no dead letters", sink["dead_letters"], 0)
            findings.same("what a success proves", sink["proves"], "stored")
    objects = await asyncio.to_thread(server.objects)
    events = [
        event
        for each in objects.values()
        for event in each
        if event["auditrelay"]["source"] != "auditrelay"  # heads of the evidence
    ]
    records = {(each.source, each.id): each.record for each in made}
    keys = Counter((event["auditrelay"]["source"], str(event["record"]["id"])) for event in events)
    findings.none("every event is stored", records.keys() - keys.keys())
    findings.none("nothing else is stored", keys.keys() - records.keys())
    findings.none("every event is stored once", [key for key, count in keys.items() if count > 1])
    findings.none(
        "every record is exactly as the vendor sent it",
        [
            event["record"]["id"]
            for event in events
            if event["record"] != records[event["auditrelay"]["source"], str(event["record"]["id"])]
        ],
    )
    findings.none("no object is notified twice", _more_than_once(server.notified.created))
    findings.same("each object is notified", len(server.notified.created), len(objects))


async def _refusals(server: Gateway, double: Bucket, findings: Findings) -> None:
    print("the same requests to versitygw and to the double")

    def codes(url: str, keys: tuple[str, str]) -> dict[str, str]:
        def asking(**other: str) -> Any:
            given = {
                "aws_access_key_id": keys[0],
                "aws_secret_access_key": keys[1],
                "region_name": _REGION,
                **other,
            }
            config = Config(
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
            )
            return botocore.session.get_session().create_client(
                "s3", endpoint_url=url, config=config, **given
            )

        s3, line = asking(), b"{}\n"
        create: dict[str, Any] = {"Bucket": _BUCKET, "Body": line, "IfNoneMatch": "*"}
        calls: dict[str, Callable[[], Any]] = {
            "created": lambda: s3.put_object(Key="a b/ü~.ndjson", **create),
            "created again": lambda: s3.put_object(Key="a b/ü~.ndjson", **create),
            "looked up": lambda: s3.head_object(Bucket=_BUCKET, Key="a b/ü~.ndjson"),
            "not there, HEAD": lambda: s3.head_object(Bucket=_BUCKET, Key="none"),
            "not there, GET": lambda: s3.get_object(Bucket=_BUCKET, Key="none"),
            "no bucket": lambda: s3.put_object(**{**create, "Bucket": "nowhere"}, Key="k"),
            "wrong secret": lambda: asking(aws_secret_access_key="wrong").put_object(
                Key="k", **create
            ),
        }
        return {name: _code(call) for name, call in calls.items()}

    theirs = await asyncio.to_thread(codes, server.url, (_KEY_ID, _SECRET))
    ours = await asyncio.to_thread(
        codes, double.url, (double.settings()["access_key_id"], double.secret)
    )
    for name, code in theirs.items():
        findings.same(name, ours[name], code)
    with tempfile.TemporaryDirectory() as folder:
        async with Sandbox(only=["bland"]) as sandbox:
            for keys, words in (
                ({"secret_access_key": "wrong-secret"}, "SignatureDoesNotMatch"),
                ({"region": "us-west-2"}, "check region"),
                ({"bucket": "nowhere"}, "check bucket"),
            ):
                sinks = {"archive": server.settings(**keys)}
                config = daemon.configure(
                    Path(folder), daemon.sources(sandbox, of=["bland"]), sinks
                )
                ended = await daemon.command(config, "check")
                said = " ".join(ended.stdout.split())
                findings.check(f"check says {words}", ok=words in said, seen=ended.stdout)


def _code(call: Callable[[], Any]) -> str:
    try:
        call()
    except ClientError as error:
        code: str = error.response["Error"]["Code"]
        return code
    return "ok"


async def _kills(server: Gateway, findings: Findings) -> None:
    print(f"killed {KILLS} times")
    rng = random.Random(1)
    unfinished = 0
    with tempfile.TemporaryDirectory() as folder:
        async with Sandbox(only=["bland", "cekura"]) as sandbox:
            config = _small_objects(Path(folder), sandbox, server, 3)
            service = daemon.Daemon(config)
            for number in range(KILLS):
                for vendor in sandbox.vendors.values():
                    for _ in range(4):
                        vendor.add(datetime.now(UTC) - timedelta(seconds=rng.random()))
                # What is cut after a kill is cut otherwise.
                _small_objects(Path(folder), sandbox, server, rng.choice((2, 3, 7)))
                await service.start()
                await asyncio.sleep(rng.uniform(0, 0.15))
                await service.end(signal.SIGKILL)
                with open_view(Path(folder) / "state") as view:
                    unfinished += bool(view.read(lambda db: seals.of(db, "archive").all))
                if number % 50 == 49:
                    print(f"  {number + 1} kills, {unfinished} of them with a seal unfinished")
            made = daemon.made(sandbox)
            async with service:
                await daemon.eventually(
                    lambda: _delivered(server, len(made)), what="everything delivered"
                )
                await service.end()
            findings.check("the service had no bug", ok="Traceback" not in service.log)
    objects = await asyncio.to_thread(server.objects)
    uids = Counter(event["metadata"]["uid"] for each in objects.values() for event in each)
    ids = {
        event["metadata"].get("original_event_uid") for each in objects.values() for event in each
    }
    findings.none("every event is in an object", made - ids)
    findings.none("no event is in two", _more_than_once(uids))
    findings.none("no object is notified twice", _more_than_once(server.notified.created))
    findings.same("each object is notified", len(server.notified.created), len(objects))
    findings.check("kills fell while objects were written", ok=unfinished > 0)


def _small_objects(folder: Path, sandbox: Sandbox, server: Gateway, most: int) -> Path:
    """Configure a service that writes objects of *most* events, and return the path."""
    sinks = {"archive": server.settings(batch_events=most, linger="0s", concurrency=3)}
    return daemon.configure(folder, daemon.sources(sandbox), sinks)


async def _delivered(server: Gateway, count: int) -> bool:
    await asyncio.sleep(1)
    objects = await asyncio.to_thread(server.objects)
    return sum(map(len, objects.values())) >= count


def _more_than_once(counted: Counter[str]) -> list[str]:
    return [name for name, count in counted.items() if count > 1]
