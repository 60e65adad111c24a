"""The image that `make image-test` has built, and containers of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import container
from tests.support.container import Container
from tests.support.image import VARIABLE, Image

HERE = Path(__file__).parent
measured: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here starts a process, or reads files that only root can unpack."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.process)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how large the image is."""
    for line in measured:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, unpacked."""
    archive = os.environ.get(VARIABLE)
    if not archive:
        pytest.skip(f"there is no image in {VARIABLE}: make image-test builds one")
    if why := container.forbidden():
        container.untested(why)
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    image = Image.unpack(Path(archive), folder)
    base, ours = (sum(each.size for each in some) / 1e6 for some in (image.base, image.ours))
    measured.append(
        f"image: {base + ours:.0f} MB; {ours:.1f} MB of them in {len(image.ours)} layer(s) of ours,"
        f" {base:.0f} MB in {len(image.base)} of the base"
    )
    yield image
    shutil.rmtree(folder)


@pytest.fixture
def volume(image: Image, tmp_path: Path) -> Path:
    """A new volume, which an engine fills with what the image has at its path: an empty folder."""
    path = tmp_path / "volume"
    path.mkdir()
    path.chmod(0o700)
    uid, gid = image.settings["User"].split(":")
    os.chown(path, int(uid), int(gid))
    return path


@pytest.fixture
def contain(image: Image, volume: Path) -> Callable[..., Container]:
    """A container of the image with that volume, by the arguments of ``Container``."""

    def make(**arguments: object) -> Container:
        return Container(image, volume, **arguments)  # type: ignore[arg-type]  # passed on

    return make
