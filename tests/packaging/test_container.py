"""The image, its compose files and its health check, as far as tests can without an engine."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from tests.support.daemon import Daemon, configure, eventually, sinks, sources

from auditrelay import __version__, config, healthcheck
from auditrelay.config import model
from auditrelay.sandbox import Sandbox, faults
from auditrelay.telemetry.scrubber import Scrubber

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


# --- the health check --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("0.0.0.0:80", "127.0.0.1", 80),
        ("[::]:9464", "::1", 9464),
        ("[fe80::1]:1", "fe80::1", 1),
        ("relay.local:9464", "relay.local", 9464),
    ],
)
def test_it_connects_to_the_address_of_the_status_port(
    tmp_path: Path, listen: str, host: str, port: int
) -> None:
    assert healthcheck.address({"AUDITRELAY_STATUS__LISTEN": listen}) == (host, port)
    path = tmp_path / "config.toml"
    path.write_text(f'[status]\nlisten = "{listen}"\n')
    assert healthcheck.address({"AUDITRELAY_CONFIG": str(path)}) == (host, port)
    path.write_text('[status]\nlisten = "10.0.0.1:1"\n')
    both = {"AUDITRELAY_CONFIG": str(path), "AUDITRELAY_STATUS__LISTEN": listen}
    assert healthcheck.address(both) == (host, port), "the environment wins"


def test_it_has_the_default_paths_and_address_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert healthcheck.DEFAULT_PATHS == config.DEFAULT_PATHS
    assert model.Status().listen == healthcheck.LISTEN
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auditrelay.toml").write_text("[log]\n")
    assert healthcheck.address({}) == ("127.0.0.1", 9464)
    (tmp_path / "auditrelay.toml").write_text('[status]\nlisten = "127.0.0.1:7"\n')
    assert healthcheck.address({}) == ("127.0.0.1", 7)


def run_health_check(listen: str) -> subprocess.CompletedProcess[str]:
    """Run the health check as the image does."""
    health = re.search(r"HEALTHCHECK [^[]*\[([^]]*)\]", DOCKERFILE)
    assert health
    python, *arguments = re.findall(r'"([^"]+)"', health[1])
    assert python == "python"
    return subprocess.run(
        [sys.executable, *arguments],
        env={"AUDITRELAY_STATUS__LISTEN": listen},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )


@pytest.mark.process
async def test_a_healthy_instance_passes_and_a_stopped_one_does_not(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        async with Daemon(configure(tmp_path, sources(sandbox), sinks(sandbox))) as daemon:
            listen = daemon.address.removeprefix("http://")
            passed = run_health_check(listen)
            assert (passed.returncode, passed.stderr) == (0, "")
            assert '"ok":true' in passed.stdout
            assert await daemon.end() == 0
        gone = run_health_check(listen)
    assert gone.returncode == 1
    assert gone.stderr.startswith("the status port does not answer: ")


class Stuck(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/healthz"
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b'{"ok":false,"stuck":["bland"]}')

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def stuck() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Stuck) as server:
        Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.process
def test_an_instance_with_a_stuck_loop_fails_and_says_which(stuck: str) -> None:
    ended = run_health_check(stuck)
    assert ended.returncode == 1
    assert '"stuck":["bland"]' in ended.stderr


@pytest.mark.process
def test_an_instance_that_never_answers_fails_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = run_health_check(f"127.0.0.1:{server.getsockname()[1]}")
    assert ended.returncode == 1
    assert "timed out" in ended.stderr
    timeout = re.search(r"HEALTHCHECK.*--timeout=(\d+)s", DOCKERFILE)
    assert timeout
    assert int(timeout[1]) > healthcheck.TIMEOUT


@pytest.mark.process
@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:http"])
def test_a_malformed_address_fails_without_a_traceback(listen: str) -> None:
    ended = run_health_check(listen)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.process
def test_it_imports_only_the_standard_library() -> None:
    code = (
        "import sys, auditrelay.healthcheck\n"
        "tops = {name.partition('.')[0] for name in sys.modules} - {'auditrelay', '__main__'}\n"
        "print(*sorted(top for top in tops if top not in sys.stdlib_module_names))"
    )
    # -S, because a development environment imports more through .pth files.
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], env=paths, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []


# --- the image ---------------------------------------------------------------------------------


HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.process
@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    ended = subprocess.run(
        [str(HADOLINT), "--no-color", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_the_image_is_of_this_version_not_root_and_receives_signals_itself() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert f'org.opencontainers.image.version="{__version__}"' in final
    assert re.search(r"^USER \d+:\d+$", final, re.MULTILINE)
    assert 'ENTRYPOINT ["auditrelay"]' in final, "a shell would not pass signals on"
    assert "\nSTOPSIGNAL SIGTERM\n" in final
    assert "curl" not in DOCKERFILE


def may_be_process_1() -> bool:
    try:
        subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@pytest.mark.process
@pytest.mark.skipif(not may_be_process_1(), reason="needs the permission to create a PID namespace")
async def test_as_process_1_it_stops_on_a_signal_and_at_once_on_a_second_one(
    tmp_path: Path,
) -> None:
    program = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "auditrelay")
    async with Sandbox() as sandbox:
        config = configure(tmp_path, sources(sandbox), sinks(sandbox))
        async with Daemon(config, program=program) as daemon:
            await eventually(lambda: daemon.logged("window_collected"))
            os.kill(child(daemon), signal.SIGTERM)
            assert await daemon.process.wait() == 0
        sandbox.splunk.faults.add(faults.hang(), method="POST", times=None)
        sandbox.splunk.seen.clear()
        sandbox.cekura.add(datetime.now(UTC))
        async with Daemon(config, program=program) as daemon:
            await eventually(lambda: any(seen.body_bytes for seen in sandbox.splunk.seen))
            one = child(daemon)
            os.kill(one, signal.SIGTERM)
            await eventually(lambda: daemon.logged("stopping"))
            began = time.monotonic()
            os.kill(one, signal.SIGTERM)
            assert await daemon.process.wait() == 128 + signal.SIGTERM
            assert time.monotonic() - began < 2


def child(daemon: Daemon) -> int:
    """Return the process that is 1 in the daemon's namespace, by its id in ours."""
    pid = daemon.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


# --- compose files --------------------------------------------------------------------------


@pytest.mark.process
def test_the_compose_file_configures_the_service_for_the_sandbox_by_environment_alone(
    tmp_path: Path,
) -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    sandbox, relay = compose["services"]["sandbox"], compose["services"]["auditrelay"]
    for service in (sandbox, relay):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    assert relay["network_mode"] == "service:sandbox"
    (mounted,) = relay["configs"]
    secret = tmp_path / "secret"
    secret.write_text(compose["configs"][mounted["source"]]["content"])
    arguments = [*sandbox["entrypoint"][1:], *sandbox["command"]]
    assert arguments[-2:] == ["--first-port", "8801"]
    double, first = start(arguments[:-1])
    environ = {
        name: re.sub(r":880(\d)", lambda found: f":{first + int(found[1]) - 1}", value)
        .replace("$$", "$")
        .replace(mounted["target"], str(secret))
        for name, value in relay["environment"].items()
    }
    ended = subprocess.run(
        [sys.executable, "-m", "auditrelay", "run", "--once"],
        cwd=tmp_path,
        env={"AUDITRELAY_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    output, _ = double.communicate(timeout=20)  # closes its stdin, which ends it
    assert ended.returncode == 0, ended.stderr
    for name, stored in json.loads(output)["stored"].items():
        assert set(stored["lost"].values()) == {0}, name
        assert stored["uids"] == 4000, name


def start(arguments: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Start the sandbox on consecutive ports; return its process and the first port."""
    for _ in range(10):
        first = free_ports(len(arguments))
        double = subprocess.Popen(
            [sys.executable, *arguments, str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert double.stdout is not None
        if line := double.stdout.readline():
            assert json.loads(line)["splunk"]["url"].endswith(f":{first}")
            return double, first
        double.communicate()  # one of the ports was taken meanwhile
    pytest.fail("no free consecutive ports")


def free_ports(count: int) -> int:
    """Return the first of *count* consecutive ports that are free."""
    while True:
        with contextlib.ExitStack() as taken:
            probe = taken.enter_context(socket.create_server(("127.0.0.1", 0)))
            first: int = probe.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                for port in range(first + 1, first + count):
                    taken.enter_context(socket.create_server(("127.0.0.1", port)))
                return first


def test_the_compose_file_of_replicas_differs_from_the_other_by_their_number_and_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "scrubber", Scrubber())
    one = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    several = yaml.safe_load((ROOT / "compose.replicas.yaml").read_text("utf-8"))
    sandbox = several["services"]["sandbox"]
    assert sandbox["command"] == one["services"]["sandbox"]["command"]
    replicas = [several["services"][name] for name in "abc"]
    ports = set()
    own = {"AUDITRELAY_REPLICA", "AUDITRELAY_STATUS__LISTEN", "AUDITRELAY_STORE"}
    keys = "AUDITRELAY_SOURCES__CEKURA__API_KEY"  # a file there
    for replica in replicas:
        assert replica["read_only"] is True
        assert replica["cap_drop"] == ["ALL"]
        environment = replica["environment"]
        ports.add(environment["AUDITRELAY_STATUS__LISTEN"].rpartition(":")[2])
        alike = {name: each for name, each in environment.items() if name not in (*own, keys)}
        single = one["services"]["auditrelay"]["environment"]
        assert alike == {name: each for name, each in single.items() if name != keys}
        read = config.load(None, {"HOME": str(tmp_path), **environment})
        assert read.store is not None
    assert {each.rpartition(":")[2] for each in sandbox["ports"]} == ports
    assert len(ports) == len({each["environment"]["AUDITRELAY_REPLICA"] for each in replicas}) == 3
