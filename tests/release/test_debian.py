"""The .deb in a clean Debian: installed, run against the sandbox, upgraded, removed, purged."""

import asyncio
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.chroot import Chroot, environment
from tests.support.daemon import configure, eventually, missing, sinks, sources

from auditrelay.cli.lazy import COMMANDS
from auditrelay.sandbox import Sandbox
from release import ROOT, VERSION, system

USER = 61184
"""Of those that systemd gives a DynamicUser."""

STATE = "/var/lib/auditrelay"
SITE = f"/usr/lib/auditrelay/lib/python{system.python()}/site-packages"


def mode(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_mode & 0o7777, found.st_uid, found.st_gid


# --- what is installed -------------------------------------------------------------------------


def test_it_depends_on_the_python_that_its_modules_were_compiled_for(installed: Chroot) -> None:
    query = ("dpkg-query", "--show", "--showformat=${Version} ${Depends}", "auditrelay")
    assert installed.run(*query) == f"{system.version_of('deb')} {depends()}"
    modules = list(installed.at(SITE).rglob("*.so"))
    assert modules
    tag = f"cpython-{system.python().replace('.', '')}"
    for path in modules:
        assert ".cpython-" not in path.name or tag in path.name, path


def depends() -> str:
    major, minor = system.python().split(".")
    return f"python3 (>= {major}.{minor}), python3 (<< {major}.{int(minor) + 1})"


def test_every_module_is_found_and_every_library_of_a_compiled_one(installed: Chroot) -> None:
    code = (
        "import importlib, pkgutil, auditrelay\n"
        "for each in pkgutil.walk_packages(auditrelay.__path__, 'auditrelay.'):\n"
        "    if not each.name.endswith('__main__'): importlib.import_module(each.name)\n"
        "print(auditrelay.__file__)"
    )
    printed = installed.run("/usr/lib/auditrelay/bin/python", "-c", code, user=USER)
    assert printed.strip() == f"{SITE}/auditrelay/__init__.py"
    assert installed.run("auditrelay", "--version", user=USER) == f"auditrelay {VERSION}\n"


def test_it_has_nothing_of_the_machine_that_built_it(installed: Chroot) -> None:
    here = str(ROOT).encode()
    for path in installed.at("/usr/lib/auditrelay").rglob("*"):
        assert mode(path)[1:] == (0, 0), path
        if path.is_file() and not path.is_symlink():
            assert not path.stat().st_mode & 0o022, path
            assert here not in path.read_bytes(), path
    assert not installed.at(f"{SITE}/bin").exists()


COMPILED = f"""
import importlib.util, marshal, pathlib
for source in pathlib.Path({SITE!r}).rglob("*.py"):
    compiled = pathlib.Path(importlib.util.cache_from_source(source)).read_bytes()
    assert compiled[4:8] == bytes([1, 0, 0, 0]), source  # not compared with its source
    assert marshal.loads(compiled[16:]).co_filename == str(source), source
    print(source)
"""


def test_each_module_is_compiled_for_its_place_and_not_compared_with_its_source(
    installed: Chroot,
) -> None:
    """It is read-only: what is not compiled would be compiled again at every start."""
    printed = installed.run("/usr/lib/auditrelay/bin/python", "-c", COMPILED, user=USER)
    assert len(printed.splitlines()) > 1000


def test_only_root_reads_the_credentials_and_everybody_the_configuration(
    installed: Chroot,
) -> None:
    assert mode(installed.at("/etc/auditrelay/credentials")) == (0o700, 0, 0)
    assert mode(installed.at("/etc/auditrelay/backfill")) == (0o755, 0, 0)
    config = installed.at("/etc/auditrelay/config.toml")
    assert mode(config) == (0o644, 0, 0)
    text = config.read_text("utf-8")
    assert "${credential:secret_splunk_hec_token}" in text
    assert "${env:" not in text
    printed = installed.run("auditrelay", "check", "--offline", user=USER, status=2)
    assert "sources.acme-voice.organization_id" in printed, "it says what to fill in"
    assert "Traceback" not in printed


def test_systemd_finds_nothing_in_the_units_and_they_run_what_is_installed(
    installed: Chroot,
) -> None:
    units = ("auditrelay.service", "auditrelay-backfill@acme-voice.service")
    printed = installed.run("systemd-analyze", "verify", "--man=no", *units)
    assert printed == ""
    for name in ("auditrelay.service", "auditrelay-backfill@.service"):
        text = installed.at(f"/usr/lib/systemd/system/{name}").read_text("utf-8")
        assert "/usr/bin/auditrelay " in text
        assert "/opt/" not in text
        assert "DynamicUser=yes" in text
    command = installed.at("/usr/sbin/auditrelayctl")
    assert mode(command) == (0o755, 0, 0)
    assert '\n  /usr/bin/auditrelay "$@"' in command.read_text("utf-8")
    assert installed.run("systemctl", "is-enabled", "auditrelay", status=1) == "disabled\n"


def test_the_man_page_has_every_command_and_the_shells_ask_the_command_itself(
    installed: Chroot,
) -> None:
    page = gzip.decompress(installed.at("/usr/share/man/man1/auditrelay.1.gz").read_bytes())
    text = page.decode().replace("\\-", "-")
    for name in COMMANDS:
        assert re.search(rf"^\.SS {name} ", text, re.MULTILINE), name
    assert "backfill [OPTIONS] source" in text
    assert ".B --concurrency" in text
    for place in system.COMPLETIONS.values():
        assert "_AUDITRELAY_COMPLETE" in installed.at(place).read_text("utf-8")
    script = (
        ". /usr/share/bash-completion/completions/auditrelay; COMP_WORDS=(auditrelay back); "
        'COMP_CWORD=1; _auditrelay_completion auditrelay; echo "${COMPREPLY[@]}"'
    )
    assert installed.run("bash", "-c", script).split() == ["backfill"]


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_finds_nothing_in_the_man_page(installed: Chroot) -> None:
    page = gzip.decompress(installed.at("/usr/share/man/man1/auditrelay.1.gz").read_bytes())
    command = ["groff", "-man", "-ww", "-z", "-Tutf8"]
    ended = subprocess.run(command, input=page, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, b"")


# --- its life ----------------------------------------------------------------------------------


class Host:
    """A Debian with the package, and what systemd gives the service there."""

    def __init__(self, chroot: Chroot) -> None:
        self.chroot = chroot
        self.environ = {
            "AUDITRELAY_CONFIG": "/etc/auditrelay/config.toml",
            "STATE_DIRECTORY": STATE,
            "CREDENTIALS_DIRECTORY": "/run/credentials/auditrelay",
        }
        self.log = chroot.root.parent / "log"

    def set_up(self, folder: Path, sandbox: Sandbox) -> None:
        """Configure it for *sandbox* as docs/systemd.md says: references in the file alone."""
        text = configure(folder, sources(sandbox), sinks(sandbox)).read_text("utf-8")
        text = re.sub(r"^state_dir = .*\n", "", text, flags=re.MULTILINE)
        secrets = re.findall(r'^(?:api_key|token) = "(.*)"$', text, re.MULTILINE)
        given = self.chroot.at("/run/credentials/auditrelay")
        given.mkdir(parents=True)
        for number, secret in enumerate(sorted(set(secrets))):
            text = text.replace(f'= "{secret}"', f'= "${{credential:secret_{number}}}"')
            file = self.chroot.at(f"/etc/auditrelay/credentials/{number}")
            file.write_text(secret)
            file.chmod(0o600)
            os.chown(shutil.copy(file, given / f"secret_{number}"), USER, USER)
        assert len(secrets) >= 4
        self.chroot.at("/etc/auditrelay/config.toml").write_text(text)
        state = self.chroot.at(STATE)
        state.mkdir(mode=0o700)
        os.chown(state, USER, USER)

    def command(self, *arguments: str) -> str:
        return self.chroot.run("auditrelay", *arguments, user=USER, environ=self.environ)

    async def serve(self, sandbox: Sandbox) -> None:
        """Run what the unit starts until all is delivered, and stop it as systemd does."""
        unit = self.chroot.at("/usr/lib/systemd/system/auditrelay.service").read_text("utf-8")
        found = re.search(r"^ExecStart=(.+)$", unit, re.MULTILINE)
        assert found
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.chroot.command(*found[1].split(), user=USER),
                env=environment(self.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            await eventually(lambda: not missing(sandbox) or process.returncode is not None)
            assert process.returncode is None, self.log.read_text()
            os.kill(only_child(process.pid), signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await process.wait() == 0, self.log.read_text()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def only_child(pid: int) -> int:
    """Return process 1 of the chroot that the process *pid* has made."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def older(folder: Path, package: Path) -> Path:
    """Return the package of a version before this one, with a module that this one has no more."""
    stage = folder / "stage"
    (folder / "older").mkdir()
    subprocess.run(["dpkg-deb", "--extract", str(package), str(stage)], check=True)
    stage.joinpath(SITE.lstrip("/"), "auditrelay", "dropped.py").write_text("")
    return system.pack(stage, "deb", folder / "older", system.version_of("deb", "0.2.0~test"))


@pytest.fixture
def debian(base: Path, tmp_path: Path) -> Iterator[Chroot]:
    """A clean Debian for one test alone."""
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)
    chroot = Chroot(base, tmp_path / "root")
    yield chroot
    shutil.rmtree(chroot.root)


async def test_it_is_installed_runs_is_upgraded_in_use_removed_and_purged(
    debian: Chroot, package: Path, tmp_path: Path
) -> None:
    before = {path for path in debian.root.rglob("*") if "/auditrelay" in str(path)}
    shutil.copy(older(tmp_path, package), debian.at("/tmp/older.deb"))
    shutil.copy(package, debian.at("/tmp/newer.deb"))
    debian.run("apt-get", "install", "--yes", "--no-install-recommends", "/tmp/older.deb")
    assert debian.at(f"{SITE}/auditrelay/dropped.py").exists()
    host = Host(debian)
    async with Sandbox(only=("cekura", "bland")) as sandbox:
        now = datetime.now(UTC)
        for vendor in ("cekura", "bland"):
            sandbox.vendors[vendor].fill(
                50, now - timedelta(minutes=30), now - timedelta(minutes=1)
            )
        host.set_up(tmp_path, sandbox)
        checked = await asyncio.to_thread(host.command, "check")  # the doubles are in this thread
        assert checked.count("│ ok") == 5
        debian.run("systemctl", "enable", "auditrelay")
        await host.serve(sandbox)

        kept = {
            path: (mode(path), path.read_bytes())
            for folder in ("/etc/auditrelay", STATE)
            for path in debian.at(folder).rglob("*")
            if path.is_file()
        }
        debian.run("apt-get", "install", "--yes", "--no-install-recommends", "/tmp/newer.deb")
        assert {path: (mode(path), path.read_bytes()) for path in kept} == kept
        assert not debian.at(f"{SITE}/auditrelay/dropped.py").exists()
        enabled = debian.run("systemctl", "is-enabled", "auditrelay")
        assert enabled == "enabled\n"
        for vendor in ("cekura", "bland"):
            sandbox.vendors[vendor].add(datetime.now(UTC))
        await host.serve(sandbox)
        for intake in sandbox.siems.values():
            assert not intake.stored.repeated(), "it goes on with the state of the older one"
        shown = json.loads(host.command("status", "--json"))
        assert shown["version"] == VERSION
        assert {each["name"] for each in shown["sources"]} == {"cekura", "bland"}

    debian.run("apt-get", "remove", "--yes", "auditrelay")
    assert debian.run("systemctl", "is-enabled", "auditrelay", status=1).strip() != "enabled"
    assert not debian.at("/usr/lib/auditrelay").exists()
    assert not debian.at("/usr/bin/auditrelay").is_symlink()
    assert all(path.exists() for path in kept), "the configuration, the secrets and the state stay"

    debian.run("apt-get", "purge", "--yes", "auditrelay")
    after = {path for path in debian.root.rglob("*") if "/auditrelay" in str(path)}
    assert {path for path in after - before if "/run/" not in str(path)} == set()
