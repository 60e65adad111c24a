"""``make image``: which engine, and what the builder's settings become; the engines are doubles."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "packaging" / "image.sh"
ENGINE = """
echo "${0##*/} $*" >>"$FOLDER/calls"
case "$1" in
  info) test ! -e "$FOLDER/no-${0##*/}" ;;
  from) echo working-container ;;
  inspect) exit 1 ;;
  image) exit 1 ;;
  pull) test -e "$FOLDER/registry" ;;
  build)
    for each in "$@"; do
      case $each in
        id=ca,*) cp "${each#*src=}" "$FOLDER/ca" ;;
        id=pip,*) cp "${each#*src=}" "$FOLDER/pip" ;;
      esac
    done ;;
esac
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


PROGRAMS = ("bash", "sh", "dirname", "sed", "timeout", "mktemp", "mkdir", "rm", "cat", "cp", "id")
"""What the script uses beside the engines."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the script with these engines, and an environment with nothing else than *settings*."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def write(name: str, text: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    for name in PROGRAMS:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    write("unshare", "")
    write("python3", f'exec {sys.executable} "$@"')

    def run(action: str, *engines: str, **settings: str) -> subprocess.CompletedProcess[str]:
        for name in engines:
            write(name, ENGINE)
        environ = {"PATH": str(programs), "FOLDER": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
        return subprocess.run(
            [str(SCRIPT), *action.split()],
            env={**environ, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def calls(folder: Path) -> list[str]:
    """Return how the engines were called, without the questions whether they work."""
    lines = (folder / "calls").read_text().splitlines()
    return [line for line in lines if line.split()[1] not in ("info", "from", "rm")]


@pytest.mark.parametrize(
    ("engines", "broken", "used"),
    [
        (("docker", "podman", "buildah"), (), "docker build "),
        (("docker", "podman", "buildah"), ("docker",), "podman build --format docker "),
        (("docker", "podman", "buildah"), ("docker", "podman"), "buildah build --format docker "),
        (("buildah",), (), "buildah build --format docker "),
    ],
)
def test_it_takes_the_first_engine_that_works_and_the_format_that_has_a_health_check(
    run: Run, tmp_path: Path, engines: tuple[str, ...], broken: tuple[str, ...], used: str
) -> None:
    for name in broken:
        (tmp_path / f"no-{name}").touch()
    ended = run("build", *engines, IMAGE="relay:7", BASE="python@sha256:5e3a")
    assert ended.returncode == 0, ended.stderr
    (call,) = calls(tmp_path)
    assert call.startswith(used)
    assert "--build-arg BASE=python@sha256:5e3a" in call
    assert "--tag relay:7" in call


def test_without_a_base_it_is_the_one_of_the_dockerfile(run: Run, tmp_path: Path) -> None:
    assert run("build", "docker").returncode == 0
    (call,) = calls(tmp_path)
    assert "BASE" not in call
    assert "--tag auditrelay" in call


def test_pips_settings_and_the_authorities_are_secrets_of_the_build_and_in_no_argument(
    run: Run, tmp_path: Path
) -> None:
    authorities = tmp_path / "authorities.crt"
    authorities.write_text("-----BEGIN CERTIFICATE-----\n")
    configured = tmp_path / "pip-of-the-builder.conf"
    configured.write_text(
        "[global]\nindex-url = https://of.the/file\nproxy = http://proxy:3128\n"
        "extra-index-url =\n    https://one.more/\n    https://another/\n"
    )
    ended = run(
        "build",
        "docker",
        PIP_INDEX_URL="https://me:a-pretend-password@of.the/environment",
        PIP_TRUSTED_HOST="one two",
        PIP_CONFIG_FILE=str(configured),
        SSL_CERT_FILE=str(authorities),
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "pip").read_text().splitlines() == [
        "[global]",
        "index-url = https://me:a-pretend-password@of.the/environment",
        "extra-index-url =  https://one.more/ https://another/",
        "trusted-host = one two",
        "proxy = http://proxy:3128",
    ]
    assert (tmp_path / "ca").read_text().startswith("-----BEGIN CERTIFICATE-----\n")
    (call,) = calls(tmp_path)
    assert "a-pretend-password" not in call + ended.stdout + ended.stderr
    secrets = [word.partition("src=")[2] for word in call.split() if word.startswith("id=")]
    assert len(secrets) == 2
    assert not any(Path(each).exists() for each in secrets), "they are removed at the end"


@pytest.mark.parametrize(
    ("action", "engines", "named"),
    [
        ("build", (), "docker, podman or buildah"),
        ("base", ("docker",), "apt install mmdebstrap"),
    ],
)
def test_what_is_missing_is_named_with_a_status_of_its_own(
    run: Run, action: str, engines: tuple[str, ...], named: str
) -> None:
    ended = run(action, *engines)
    assert ended.returncode == 69
    assert named in ended.stderr


def test_what_the_tests_read_is_on_the_base_of_the_dockerfile_if_a_registry_has_it(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "registry").touch()
    ended = run(f"archive {tmp_path}/image.tar", "docker")
    assert ended.returncode == 0, ended.stderr
    *_, built, saved = calls(tmp_path)
    (named,) = re.findall("^ARG BASE=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert f"--build-arg BASE={named} " in built
    assert saved == f"docker save --output {tmp_path}/image.tar auditrelay"


def test_otherwise_on_one_of_debian_packages_and_if_they_cannot_be_had_that_is_no_failure(
    run: Run, tmp_path: Path
) -> None:
    reachable = tmp_path / "bin" / "mmdebstrap"
    reachable.write_text('#!/bin/sh\necho "mmdebstrap $*" >>"$FOLDER/calls"\n')
    reachable.chmod(0o755)
    ended = run(f"archive {tmp_path}/image.tar", "docker")
    assert ended.returncode == 0, ended.stderr
    *_, made, imported, built, _ = calls(tmp_path)
    assert made.startswith("mmdebstrap ")
    assert imported.endswith(" localhost/debian-python:bookworm")
    assert "--build-arg BASE=localhost/debian-python:bookworm " in built
    reachable.write_text("#!/bin/sh\nexit 25\n")
    ended = run(f"archive {tmp_path}/image.tar", "docker")
    assert ended.returncode == 69
    assert "can Debian's packages be reached?" in ended.stderr


# --- the gate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "failing", "expected", "says"),
    [
        (0, "", 0, ""),
        (0, "AREA=image", 7, ""),
        (1, "", 1, ""),
        (69, "", 0, "Skipped: the image cannot be had here"),
        (124, "", 0, "Skipped: the image took too long"),
    ],
)
def test_the_gate_counts_a_failure_of_the_image_and_says_that_it_was_skipped(
    tmp_path: Path, built: int, failing: str, expected: int, says: str
) -> None:
    doubles = {
        "packaging/image.sh": f"exit {built}",
        "bin/make": 'echo "make $*"; case "$*" in ' + (f"*{failing}*) exit 7;; " * bool(failing)),
        "packaging/kubernetes/build.sh": "exit 69",
        ".venv/bin/python": "exit 2",
        "bin/id": "echo 1000",
    }
    doubles["bin/make"] += "esac"
    for name, text in {**doubles, ".ci/run": ""}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n" if text else (ROOT / ".ci" / "run").read_text())
        path.chmod(0o755)
    ended = subprocess.run(
        [str(tmp_path / ".ci" / "run")],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == expected, ended.stderr
    assert says in ended.stderr
    made = [line.removeprefix("make ") for line in ended.stdout.splitlines()]
    assert made[-1] == "test", "the last line of the gate is that of all tests"
    assert ("test AREA=image PARALLEL=-n 0" in made) == (built == 0)
