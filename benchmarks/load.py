"""What benchmarks of the whole relay share: the load, what a run costs, and the unit of CPU."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from okta import okta_records

RECORD_BYTES = 700
DESCRIBED = ("okta",)
"""The vendors of a load that are only described: the sandbox serves what is in their files."""
SINKS = {
    "splunk_hec": 'url = "{splunk[url]}"\ntoken = "{splunk[token]}"',
    "datadog": 'url = "{datadog[url]}"\napi_key = "{datadog[api_key]}"',
    "elasticsearch": 'urls = ["{elastic[url]}"]\napi_key = "{elastic[api_key]}"',
    "file": 'path = "{folder}/out.ndjson"',
}
DOUBLES = {
    "splunk_hec": "splunk",
    "elasticsearch": "elastic",
    "datadog": "datadog",
    "azure_logs": "sentinel",
    "object_storage": "bucket",
    "otlp": "collector",
}
MORE = ("azure_logs", "object_storage", "otlp", "loki")
"""Sinks whose double is there on request; it says with which settings."""
SOURCES = {
    "cekura": 'organization_id = "{cekura[organization_id]}"\napi_key = "{cekura[api_key]}"\n',
    "bland": 'api_key = "{bland[api_key]}"\n',
    "jitsudo": 'tenant_id = "{jitsudo[tenant_id]}"\napi_key = "{jitsudo[api_key]}"\n',
    "okta": 'domain = "{okta[domain]}"\ntoken = "{okta[token]}"\n',
}


@dataclass(frozen=True, slots=True)
class Load:
    """
    A vendor's history: its records are spread over *span*, which ends *until* ago.

    The source first asks for everything since *lookback* ago, in pages of *page*, and each time for
    the last *overlap* again.
    """

    vendor: str
    page: int
    span: str = "1h"
    until: str = "2m"
    lookback: str = "2h"
    overlap: str = "10m"


@dataclass(frozen=True, slots=True)
class Served:
    """What a vendor was asked for."""

    requests: int
    records: int


@dataclass(frozen=True, slots=True)
class Run:
    """The cost of one run: CPU seconds of user and system, the largest resident set."""

    seconds: float
    cpu: float
    peak_mb: float


@contextlib.contextmanager
def sandbox(load: Load, events: int, sinks: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """
    Serve *events* records in a process of its own; its report is under ``totals`` at the end.

    Those of *sinks* whose double is there on request are asked for.
    """
    command = [sys.executable, "-m", "auditrelay.sandbox", "--vendor", load.vendor, "--lean"]
    command += ["--events", str(events), "--record-bytes", str(RECORD_BYTES)]
    command += ["--page-cap", str(load.page), "--span", load.span, "--until", load.until]
    command += [text for sink in sinks if sink in MORE for text in ("--siem", sink)]
    with (
        _described(load.vendor) as more,
        subprocess.Popen(
            [*command, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        try:
            yield addresses
        except BaseException:
            process.kill()  # it would write its report into a closed pipe
            raise
        process.send_signal(signal.SIGTERM)
        addresses["totals"] = json.loads(process.stdout.readline())


@contextlib.contextmanager
def _described(vendor: str) -> Iterator[list[str]]:
    """Give the arguments with which the sandbox serves *vendor*, if it is only described."""
    if vendor not in DESCRIBED:
        yield []
        return
    with folder() as where:
        sample = where / "sample.json"
        sample.write_bytes(b"[%b]" % b",".join(okta_records(500)))
        yield ["--sample", str(sample)]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a folder, and delete it at the end."""
    made = Path(tempfile.mkdtemp(prefix="auditrelay-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def configure(
    where: Path, load: Load, sinks: Sequence[str], addresses: dict[str, Any], more: str = ""
) -> Path:
    """Write the configuration of a daemon that carries *load* to *sinks*; return its path."""
    text = (
        f'state_dir = "{where}/state"\n{more}[sources.load]\ntype = "{load.vendor}"\n'
        f'base_url = "{addresses[load.vendor]["url"]}"\npage_size = {load.page}\n'
        f'initial_lookback = "{load.lookback}"\noverlap = "{load.overlap}"\n'
    )
    values = {**addresses, "folder": where}
    text += SOURCES[load.vendor].format(**values)
    for sink in sinks:
        text += f'[sinks.{sink}]\ntype = "{sink}"\n{_settings(sink, values)}\n'
    config = where / "config.toml"
    config.touch(mode=0o600)
    config.write_text(text)
    return config


def _settings(sink: str, values: dict[str, Any]) -> str:
    if sink not in MORE:
        return SINKS[sink].format(**values)
    found = values[DOUBLES.get(sink, sink)]
    return "\n".join(
        f"{key} = {_toml(value)}"
        for key, value in found.items()
        if key not in ("type", "linger") and (key != "url" or sink not in DOUBLES)
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value)


def measured(
    command: Sequence[str], env: dict[str, str] | None = None, log: IO[str] | None = None
) -> Run:
    """Run *command* to its end, with what it prints in *log*; exit if it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    return finished(process, began)


def finished(process: "subprocess.Popen[Any]", began: float) -> Run:
    """Wait for *process*, which *began* then; exit if it fails."""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"{process.args!r} exited with status {process.returncode}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def once(python: str, config: Path) -> Run:
    """Let the daemon of this interpreter's environment catch up once, and deliver everything."""
    command = [python, "-m", "auditrelay", "-c", str(config), "--log-level", "error"]
    return measured([*command, "run", "--once"])


def check_arrived(addresses: dict[str, Any], events: int, sinks: Sequence[str]) -> None:
    """Exit unless each of *sinks* has every event, each once."""
    for sink in sinks:
        stored = addresses["totals"]["stored"].get(DOUBLES.get(sink, sink))
        if stored is not None and (stored["uids"], stored["repeated"]) != (events, 0):
            sys.exit(f"{sink} has {stored['uids']} of {events}, {stored['repeated']} repeated")


def served(addresses: dict[str, Any], load: Load) -> Served:
    """Return what the vendor was asked for, once the sandbox has ended."""
    made = addresses["totals"]["made"][load.vendor]
    return Served(made["requests"], made["served"])


def unit(vendor: str) -> float:
    """
    Return the CPU seconds that the standard library's json takes for one record, both ways, now.

    A machine and its neighbours differ from minute to minute; what else a program does with the
    same records at the same time can be compared with this. It takes a tenth of a second.
    """
    texts = _texts(vendor)
    rounds, began = 0, time.process_time()
    while (spent := time.process_time() - began) < 0.1:
        for text in texts:
            json.dumps(json.loads(text))
        rounds += 1
    return spent / rounds / len(texts)


def _texts(vendor: str) -> list[str]:
    if vendor in DESCRIBED:
        return [record.decode() for record in okta_records(1000)]
    records = import_module(f"auditrelay.sandbox.vendors.{vendor}").generated(
        1000, datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1), RECORD_BYTES
    )
    return [entry.text.decode() for entry in records]
