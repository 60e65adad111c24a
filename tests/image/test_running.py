"""The image as a container runs it, against the sandbox's doubles on loopback."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.container import Container
from tests.support.daemon import eventually, missing, sinks, sources
from tests.support.image import Image

from auditrelay.sandbox import Sandbox, faults

Contain = Callable[..., Container]

CATCHES_SIGTERM = 1 << (signal.SIGTERM - 1)
USERS = {"its own user": None, "an arbitrary one": (1_000_730_000, 0)}
"""OpenShift runs a container as any uid, of group 0."""


def environ(sandbox: Sandbox, **others: str) -> dict[str, str]:
    """Return the whole configuration of the service as an environment."""
    found = {
        "AUDITRELAY_LOG__FORMAT": "json",
        "AUDITRELAY_ALERTS__EVENTS": "false",  # tests count what arrives
        "AUDITRELAY_STATUS__LISTEN": "0.0.0.0:0",  # tests run beside each other
    }
    tables: dict[str, dict[str, Any]] = {"SOURCES": sources(sandbox), "SINKS": sinks(sandbox)}
    for group, members in tables.items():
        for name, table in members.items():
            for key, value in table.items():
                text = ",".join(value) if isinstance(value, list) else str(value)
                found[f"AUDITRELAY_{group}__{name}__{key}".upper()] = text
    return {**found, **others}


def fill(sandbox: Sandbox) -> None:
    """Let the vendors have 200 events each, of the last half hour."""
    now = datetime.now(UTC)
    for vendor in ("cekura", "bland"):
        sandbox.vendors[vendor].fill(200, now - timedelta(minutes=30), now - timedelta(minutes=1))


def add(sandbox: Sandbox) -> None:
    """Let each vendor record an event now."""
    for vendor in ("cekura", "bland"):
        sandbox.vendors[vendor].add(datetime.now(UTC))


async def delivered(sandbox: Sandbox, container: Container) -> None:
    """Wait until all events of the vendors are in every SIEM."""
    await eventually(
        lambda: not missing(sandbox) or container.process.returncode is not None, what="delivered"
    )
    assert not missing(sandbox), container.log


def duplicates(sandbox: Sandbox) -> dict[str, int]:
    """Return how many events each intake has more than once."""
    return {name: len(each.stored.repeated()) for name, each in sandbox.siems.items()}


def is_empty(volume: Path) -> bool:
    """Return whether nothing is in *volume*."""
    return not any(volume.iterdir())


def share(volume: Path) -> None:
    """Make *volume* one that a group may write, as Kubernetes does for ``fsGroup``."""
    os.chown(volume, 0, 0)
    volume.chmod(0o2770)


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
async def test_it_delivers_with_a_read_only_root_no_rights_and_an_environment_alone(
    contain: Contain, volume: Path, user: tuple[int, int] | None
) -> None:
    if user is not None:
        share(volume)
    async with Sandbox(only=("cekura", "bland")) as sandbox:
        fill(sandbox)
        async with contain(environ=environ(sandbox), user=user) as container:
            await delivered(sandbox, container)
            status = await container.status()
            assert status["NSpid"].split()[-1] == "1"
            uid, gid = container.user
            assert status["Uid"].split() == [str(uid)] * 4
            assert status["Gid"].split() == [str(gid)] * 4
            assert uid != 0
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(status[kind], 16) == 0, kind
            assert status["NoNewPrivs"] == "1"
            for folder in ("/", "/tmp", "/opt/auditrelay", "/etc"):
                wrote = await container.exec("python", "-c", f"open('{folder}/new', 'w')")
                assert "Read-only file system" in wrote.stderr or "Permission" in wrote.stderr
            await container.send(signal.SIGTERM)
            assert await container.wait() == 0
        assert "Traceback" not in container.log
        assert (volume / "state.db").exists()


async def test_sigterm_ends_process_1_from_the_first_instant_of_the_program(
    contain: Contain,
) -> None:
    async with contain(command=["run"]) as container:

        async def catches() -> int:
            return int((await container.status())["SigCgt"], 16) & CATCHES_SIGTERM

        await eventually(catches)
        began = time.monotonic()
        await container.send(signal.SIGTERM)
        assert await container.wait(5) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 5
        assert container.log == "", "it was still being imported"


async def test_before_that_python_begins_and_that_is_a_moment(contain: Contain) -> None:
    """Linux drops what process 1 has no handler for: an engine that asks then waits in vain."""
    async with contain(command=["run"]) as container:
        inside = await container.process_1()
        began = time.monotonic()
        while container.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inside, signal.SIGTERM)
            await asyncio.sleep(0.005)
        assert time.monotonic() - began < 5
        assert container.process.returncode == 128 + signal.SIGTERM


async def test_sigterm_with_requests_in_flight_ends_it_with_0_and_the_rest_is_delivered_later(
    contain: Contain,
) -> None:
    async with Sandbox(only=("cekura", "bland")) as sandbox:
        fill(sandbox)
        sandbox.splunk.faults.add(faults.hang(), method="POST", times=None)
        settings = environ(sandbox)
        async with contain(environ=settings) as container:
            await eventually(lambda: any(each.body_bytes for each in sandbox.splunk.seen))
            await container.send(signal.SIGTERM)
            assert await container.wait() == 0
        assert "splunk" in missing(sandbox)
        sandbox.splunk.faults.clear()
        async with contain(environ=settings) as container:
            await delivered(sandbox, container)


async def test_after_sigkill_a_new_container_with_its_volume_delivers_everything(
    contain: Contain,
) -> None:
    async with Sandbox(only=("cekura", "bland")) as sandbox:
        fill(sandbox)
        sandbox.splunk.faults.add(faults.hang(), method="POST", times=None)
        settings = environ(sandbox)
        async with contain(environ=settings) as container:
            await eventually(lambda: any(each.body_bytes for each in sandbox.splunk.seen))
            await container.send(signal.SIGKILL)
            assert await container.wait() != 0
        assert "splunk" in missing(sandbox)
        sandbox.splunk.faults.clear()
        add(sandbox)
        async with contain(environ=settings) as container:
            await delivered(sandbox, container)
            await container.send(signal.SIGTERM)
            assert await container.wait() == 0


async def test_the_state_is_on_the_volume_so_a_new_container_sends_nothing_again(
    contain: Contain,
) -> None:
    async with Sandbox(only=("cekura", "bland")) as sandbox:
        fill(sandbox)
        settings = environ(sandbox)
        for _ in range(2):
            async with contain(environ=settings) as container:
                await delivered(sandbox, container)
                await container.send(signal.SIGTERM)
                assert await container.wait() == 0
            add(sandbox)
        assert set(duplicates(sandbox).values()) == {0}


async def test_its_health_check_asks_its_own_port_by_default_and_fails_without_a_service(
    contain: Contain, image: Image
) -> None:
    """A SIEM that cannot be reached is no reason to restart it."""
    settings = {
        "AUDITRELAY_LOG__FORMAT": "json",
        "AUDITRELAY_SOURCES__BLAND__TYPE": "bland",
        "AUDITRELAY_SOURCES__BLAND__BASE_URL": "http://127.0.0.1:9",
        "AUDITRELAY_SOURCES__BLAND__API_KEY": "org_sandbox-bland-key-not-a-real-secret",
        "AUDITRELAY_SINKS__SPLUNK__TYPE": "splunk_hec",
        "AUDITRELAY_SINKS__SPLUNK__URL": "http://127.0.0.1:9",
        "AUDITRELAY_SINKS__SPLUNK__TOKEN": "5a4dbb0c-0000-4000-8000-00000000f4ce",
    }
    _, *check = image.settings["Healthcheck"]["Test"]
    async with contain(environ=settings, own_network=True) as container:
        await container.started()
        healthy = await container.exec(*check)
        assert (healthy.returncode, healthy.stderr) == (0, "")
        assert '"ok":true' in healthy.stdout
        elsewhere = await container.exec(*check, AUDITRELAY_STATUS__LISTEN="127.0.0.1:9")
        assert elsewhere.returncode == 1
        assert "does not answer" in elsewhere.stderr
        shown = await container.exec("auditrelay", "status")
        assert "bland" in shown.stdout, shown.stderr


async def test_a_setting_that_is_missing_is_named(contain: Contain) -> None:
    async with contain(environ={"AUDITRELAY_SINKS__SPLUNK__TYPE": "splunk_hec"}) as container:
        assert await container.wait(30) == 2
    assert "AUDITRELAY_SINKS__SPLUNK" in container.log or "sinks.splunk" in container.log
    assert "Traceback" not in container.log


async def test_its_demo_delivers_everything_and_leaves_the_state_of_the_service_alone(
    contain: Contain, volume: Path
) -> None:
    """Its environment has two keys for the service, which are not for the demo."""
    async with contain(command=["demo", "--duration", "5s"]) as container:
        status = await container.wait(within=90)
    assert status == 0, container.log
    assert "Nothing is lost." in container.log
    assert "Traceback" not in container.log
    assert is_empty(volume)


async def test_it_keeps_its_state_in_postgresql_with_the_driver_that_it_brings(
    contain: Contain, database: str
) -> None:
    async with Sandbox(only=("cekura", "bland")) as sandbox:
        fill(sandbox)
        settings = environ(sandbox, AUDITRELAY_STORE=database, AUDITRELAY_REPLICA="a")
        async with contain(environ=settings) as container:
            await delivered(sandbox, container)
            driver = await container.exec(
                "python", "-c", "import psycopg; print(psycopg.pq.__impl__, psycopg.pq.version())"
            )
            assert driver.stdout.startswith("binary "), driver.stderr
            await container.send(signal.SIGTERM)
            assert await container.wait() == 0
