"""What ``make release-test`` has built, and a clean Debian for it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import container
from tests.support.chroot import Chroot, make_base

from release import PROJECT, ROOT, VERSION, system

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here starts processes."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.process)


@pytest.fixture(scope="session")
def dist() -> Path:
    """The folder of what is released."""
    folder = os.environ.get("TEST_DIST")
    if not folder:
        pytest.skip("there is nothing in TEST_DIST: make release-test makes it")
    return ROOT / folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """The wheel."""
    return dist / f"{PROJECT['name']}-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="session")
def package(dist: Path) -> Path:
    """The .deb, which is built only on Debian."""
    found = list(dist.glob("*.deb"))
    if not found:
        container.untested("there is no .deb: it is built on Debian alone")
    return found[0]


@pytest.fixture(scope="session")
def base(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clean Debian, the same release that the package is for, as an archive."""
    if why := container.forbidden():
        container.untested(why)
    folder = tmp_path_factory.mktemp("debian")
    release = system.debian()["VERSION_CODENAME"]
    if why := make_base(folder / "base.tar", release):
        container.untested(why)
    yield folder / "base.tar"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def installed(
    base: Path, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chroot]:
    """A Debian with the package, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("installed")
    folder.chmod(0o755)
    chroot = Chroot(base, folder / "root")
    shutil.copy(package, chroot.at("/tmp/auditrelay.deb"))
    chroot.run("apt-get", "install", "--yes", "--no-install-recommends", "/tmp/auditrelay.deb")
    yield chroot
    shutil.rmtree(folder)
