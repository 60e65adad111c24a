"""
Validate what we send, and our double's answers, against Datadog's own OpenAPI description.

No registry has a program that accepts Datadog's logs. But Datadog publishes the description of its
API in the source package of its Python client. Prism, a third-party validating HTTP proxy, refuses
whatever the description does not allow: it runs between auditrelay and our double, and validates
both. It cannot decode gzip.
"""

import json
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from tests.siem.seen import SIEM
from tests.support import daemon

from auditrelay.sandbox import Sandbox
from interop import vendors
from interop.cluster import once
from interop.findings import Findings
from interop.receiver import HERE, Missing
from interop.vendors import Made

_CLIENT = "datadog-api-client==2.62.0"
_FOLDER = HERE / "datadog"
_TARGET = _FOLDER / "target"
_READY_TIMEOUT = 60.0
_USED = {
    "v1": ["/api/v1/validate", "/api/v1/logs/config/pipelines"],
    "v2": ["/api/v2/logs", "/api/v2/security_monitoring/rules"],
}
_KEYS = {"DD-API-KEY": "key", "DD-APPLICATION-KEY": "key"}


def build() -> Path:
    """Fetch Prism and the description, and return the path of the extracted part."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Missing(f"there is no {program} on the PATH: install Node.js, 18 or newer")
    part = _TARGET / "openapi.json"
    if part.exists():
        return part
    _TARGET.mkdir(exist_ok=True)
    for name in ("package.json", "cut.cjs"):
        shutil.copy(_FOLDER / name, _TARGET)
    _run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
    pip = (sys.executable, "-m", "pip", "--quiet", "download", "--no-deps")
    _run(*pip, "--no-binary", ":all:", "--dest", ".", _CLIENT)
    [archive] = _TARGET.glob("datadog_api_client-*.tar.gz")
    parts: dict[str, Any] = {}
    with tarfile.open(archive) as files:
        for version, paths in _USED.items():
            inside = f"{archive.name.removesuffix('.tar.gz')}/.generator/schemas/{version}"
            member = files.extractfile(f"{inside}/openapi.yaml")
            if member is None:
                raise Missing(f"{archive.name} has no {inside}/openapi.yaml")
            (_TARGET / f"{version}.yaml").write_bytes(member.read())
            _run("node", "cut.cjs", f"{version}.yaml", f"{version}.json", *paths)
            _merge(parts, json.loads((_TARGET / f"{version}.json").read_bytes()))
    part.write_text(json.dumps(parts))
    return part


def _run(*words: str) -> None:
    done = subprocess.run(
        words, cwd=_TARGET, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        said = done.stdout.decode(errors="replace")[-2000:]
        raise Missing(f"{' '.join(words)} in interop/datadog/target failed:\n{said}")


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    """Merge *other* into *into*, which wins conflicts."""
    for key, value in other.items():
        if key in into and isinstance(value, dict):
            _merge(into[key], value)
        else:
            into.setdefault(key, value)


@contextmanager
def prism(*words: str) -> Iterator[str]:
    """Run Prism on a free port and yield its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    program = str(_TARGET / "node_modules" / ".bin" / "prism")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [program, *words, "--errors", "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + _READY_TIMEOUT
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Missing(f"Prism did not start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


async def prove(findings: Findings) -> None:
    """Send everything through Prism, including the files of siem/datadog."""
    part = str(build())
    async with Sandbox() as sandbox:
        vendors.fill(sandbox)
        made = vendors.made(sandbox)
        double = sandbox.datadog
        print(f"{len(made)} events through Datadog's own description of its API")
        with prism("proxy", part, double.url) as url, tempfile.TemporaryDirectory() as folder:
            table = {
                "type": "datadog",
                "url": url,
                "api_key": double.api_key,
                "linger": "20ms",
                "compression": "none",
            }
            config = daemon.configure(Path(folder), vendors.sources(sandbox), {"datadog": table})
            ended = await daemon.command(config, "check")
            findings.check("check exits with 0", ok=ended.status == 0, seen=ended.stdout)
            await once(config, findings)
            ended = await daemon.command(config, "status", "--json")
            [sink] = json.loads(ended.stdout)["sinks"]
            findings.same("no dead letters", sink["dead_letters"], 0)
            _compare(double.stored.documents, made, findings)
    print("the files of siem/datadog")
    with prism("mock", part) as url:
        rules = "/api/v2/security_monitoring/rules"
        for path in sorted((SIEM / "datadog" / "rules").glob("*.json")):
            _judge(url + rules, path, findings)
        _judge(url + "/api/v1/logs/config/pipelines", SIEM / "datadog" / "pipeline.json", findings)


def _compare(logs: list[dict[str, Any]], made: list[Made], findings: Findings) -> None:
    """Check that *logs* are exactly what was *made*, each once, unchanged."""
    wanted = {(each.source, each.id): each for each in made}
    times: Counter[tuple[str, str]] = Counter()
    wrong_time, wrong_record = [], []
    for log in logs:
        [record] = log["vendor"].values()
        # a record beyond Datadog's limits for attributes is a text
        whole = json.loads(record) if isinstance(record, str) else record
        key = log["auditrelay"]["source"], str(whole["id"])
        times[key] += 1
        each = wanted.get(key)
        if each is None:
            continue
        at = datetime.fromisoformat(log["timestamp"]).timestamp()
        if round(at * 1000) != each.at // 1000:
            wrong_time.append((key, log["timestamp"]))
        if _rounded(whole) != _rounded(each.record):
            wrong_record.append(key)
    findings.none("every event is stored", wanted.keys() - times.keys())
    findings.none("nothing else is stored", times.keys() - wanted.keys())
    findings.none("every event is stored once", [key for key, n in times.items() if n > 1])
    findings.none("every event has its own time", wrong_time)
    findings.none("every record is exactly as the vendor sent it", wrong_record)
    ids = {log["evt"]["id"] for log in logs}
    findings.same("every event has its own id", len(ids), len(made))


def _rounded(record: Any) -> Any:
    """Return *record* as JavaScript passes it on: integers beyond 2**53 are rounded."""
    return json.loads(json.dumps(record), parse_int=float)


def _judge(url: str, path: Path, findings: Findings) -> None:
    """Check that *path* may be posted to *url*, and not without its name."""
    whole = json.loads(path.read_bytes())
    reply = httpx.post(url, json=whole, headers=_KEYS, trust_env=False)
    findings.check(f"{path.name} may be created", ok=reply.is_success, seen=reply.text)
    del whole["name"]
    reply = httpx.post(url, json=whole, headers=_KEYS, trust_env=False)
    findings.check(f"{path.name} without a name may not", ok=reply.is_client_error)
