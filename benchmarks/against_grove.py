"""
Measure Grove next to auditrelay: the same records, from the same sandbox, in one sitting.

    python benchmarks/against_grove.py [--events 60000] [--repeat 3] [--pages 1000 100]
    python benchmarks/against_grove.py --vendor okta --pages 1000

Grove is the other program that polls audit logs and pushes them on. It is installed, in the version
below, into an environment of its own, with what pip is configured to use. It reads the sandbox's
Cekura with a connector that is written as its own are (grove_connector.py), keeps its pointers in
files, and posts every page to the sandbox's Datadog by its HTTP output. It neither normalizes nor
stores nor compresses. The rounds alternate between it and auditrelay; the medians are printed.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import Distribution, distributions
from pathlib import Path

from load import Load, Run, check_arrived, configure, folder, measured, once, sandbox, served, unit

VERSION = "2.2.0"
ENVIRONMENT = Path(__file__).parents[1] / ".venv-grove"
SINKS = ("splunk_hec", "datadog", "elasticsearch")
CONNECTORS = {"cekura": "grove_connector", "okta": "grove_okta"}
PATHS = {"cekura": "/user/v1/audit-logs/", "okta": ""}
"""What follows the address of the vendor for each connector."""
ENTRY_POINTS = "[grove.connectors]\nload_audit_logs = {}:Connector\n"


def install() -> str:
    """Return the interpreter of Grove's environment; make the environment if it is not there."""
    python = str(ENVIRONMENT / "bin" / "python")
    if not (ENVIRONMENT / "installed").exists():
        print(f"installing Grove {VERSION} into {ENVIRONMENT}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, f"grove=={VERSION}"], check=True)
        (ENVIRONMENT / "installed").touch()
    return python


def versions() -> str:
    """Return the versions of what Grove's cost depends on."""
    packages = next(ENVIRONMENT.glob("lib/*/site-packages"))
    wanted = ("grove", "requests", "urllib3", "pydantic", "jmespath")
    found: list[Distribution] = [
        each for each in distributions(path=[str(packages)]) if each.name in wanted
    ]
    return ", ".join(f"{each.name} {each.version}" for each in found)


def grove(python: str, load: Load, events: int) -> Run:
    """Let Grove collect *events* events once, and check that all were read and sent."""
    with folder() as where:
        with sandbox(load, events) as addresses:
            vendor, datadog = addresses[load.vendor], addresses["datadog"]
            connector_file = Path(__file__).with_name(f"{CONNECTORS[load.vendor]}.py")
            (where / "configs").mkdir()
            connector = {
                "connector": "load_audit_logs",
                "name": "load",
                "identity": str(vendor.get("organization_id", "load")),
                "key": vendor.get("api_key") or vendor["token"],
            }
            (where / "configs" / "load.json").write_text(json.dumps(connector))
            # A plugin is found by the entry points of an installed distribution.
            plugin = where / "plugin" / "load-1.dist-info"
            plugin.mkdir(parents=True)
            (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: load\nVersion: 1\n")
            (plugin / "entry_points.txt").write_text(ENTRY_POINTS.format(connector_file.stem))
            shutil.copy(connector_file, plugin.parent)
            now = time.time()
            env = {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(plugin.parent),
                "GROVE_CONFIG_LOCAL_FILE_PATH": str(where / "configs"),
                "GROVE_CACHE_HANDLER": "local_file",
                "GROVE_CACHE_LOCAL_FILE_PATH": str(where / "cache"),
                "GROVE_OUTPUT_HANDLER": "remote_http",
                "GROVE_OUTPUT_REMOTE_HTTP_URL": f"{datadog['url']}/api/v2/logs",
                "GROVE_OUTPUT_REMOTE_HTTP_HEADERS": (
                    f"DD-API-KEY: {datadog['api_key']}|Content-Type: application/json"
                ),
                "BENCH_URL": vendor["url"] + PATHS[load.vendor],
                "BENCH_START": _iso(now - 7200),
                "BENCH_END": _iso(now),
                "BENCH_PAGE": str(load.page),
            }
            (where / "cache").mkdir()
            log = where / "log"
            with log.open("w") as output:
                run = measured([python, "-m", "grove.entrypoints.local_process"], env, output)
        pages = -(-events // load.page)
        sent = addresses["totals"]["stored"]["datadog"]["requests"]
        if served(addresses, load).records != events or sent != pages:
            sys.exit(f"Grove sent {sent} of {pages} pages:\n{log.read_text()[-2000:]}")
    return run


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def relay(load: Load, sink: str, events: int) -> Run:
    """Let auditrelay carry *events* events to *sink* once."""
    with folder() as where:
        with sandbox(load, events) as addresses:
            run = once(sys.executable, configure(where, load, (sink,), addresses))
        check_arrived(addresses, events, (sink,))
    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the medians are shown")
    parser.add_argument("--pages", type=int, nargs="+", default=[1000, 100])
    parser.add_argument("--vendor", choices=list(CONNECTORS), default="cekura")
    options = parser.parse_args()
    python = install()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    print(versions())
    names = ("Grove", *SINKS)
    print("\n| page | what | events/s | CPU s/100k | of Grove's | units | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for page in options.pages:
        load = Load(options.vendor, page)

        def run(name: str, events: int, load: Load = load) -> Run:
            return grove(python, load, events) if name == "Grove" else relay(load, name, events)

        starts = {name: statistics.median([run(name, 1).cpu for _ in range(3)]) for name in names}
        runs: dict[str, list[Run]] = {name: [] for name in names}
        units = []
        for _ in range(options.repeat):
            for name in names:
                units.append(unit(options.vendor))
                runs[name].append(run(name, options.events))
        cost = {
            name: (statistics.median([each.cpu for each in runs[name]]) - starts[name])
            / options.events
            for name in names
        }
        for name in names:
            rate = options.events / statistics.median([each.seconds for each in runs[name]])
            print(
                f"| {page:,} | {name} | {rate:,.0f} | {cost[name] * 100_000:.2f} "
                f"| {cost[name] / cost['Grove']:.2f} "
                f"| {cost[name] / statistics.median(units):.2f} "
                f"| {max(each.peak_mb for each in runs[name]):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
