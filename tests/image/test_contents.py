"""What the image is made of: little, and nothing of the machine that built it."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from tests.support.image import Image

from auditrelay import __version__

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / "packaging" / "image.sh").read_text("utf-8")

MOST = 90_000_000
"""Bytes that all layers above the base may have together, as tar archives."""

OURS = re.compile(
    r"(opt/auditrelay|var/lib/auditrelay)(/|$)"
    r"|etc/(passwd|group)-?$"
    # Mount points that engines leave behind.
    r"|(etc/(hosts|hostname|resolv\.conf|mtab)|dev|proc|sys|run|run/\.containerenv|\.dockerenv)$"
)
COMPILERS = re.compile(
    r"((x86_64|aarch64)-linux-gnu-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|tcc|as|ld|gold|make|cmake|rustc|cargo|go)"
    r"(-[\d.]+)?"
)
BUILDERS = {
    "pip",
    "setuptools",
    "pkg_resources",
    "wheel",
    "hatchling",
    "editables",
    "uv",
    "_distutils_hack",
}
CACHES = ("root/.cache", "var/cache/apt", "var/lib/apt/lists", "tmp", "var/tmp", "src")


def files(image: Image, *under: str) -> Iterator[Path]:
    """Yield every regular file of the image in the folders *under*, or in all."""
    for folder in under or ("",):
        for path in image.at(folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path


def test_our_layers_are_small(image: Image) -> None:
    assert image.ours
    assert image.base
    assert sum(layer.size for layer in image.ours) <= MOST


def test_our_layers_have_the_program_its_user_and_its_state_and_nothing_else(image: Image) -> None:
    found = image.our_paths()
    assert "opt/auditrelay/bin/auditrelay" in found
    parents = {"opt", "var", "var/lib", "etc"}
    assert [path for path in found if not OURS.match(path) and path not in parents] == []
    engine = [path for path in found if path.startswith(("etc/", "run", "."))]
    sizes = {path: found[path].size for path in engine if found[path].isfile()}
    assert all(
        not size for path, size in sizes.items() if "/passwd" not in path and "/group" not in path
    )


def test_there_is_no_compiler(image: Image) -> None:
    programs = {
        path.relative_to(image.root)
        for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "opt/auditrelay/bin")
        if image.at(folder).is_dir()
        for path in image.at(folder).iterdir()
    }
    assert len(programs) > 50
    assert [str(path) for path in programs if COMPILERS.fullmatch(path.name)] == []


def test_what_installs_and_builds_packages_is_not_among_ours(image: Image) -> None:
    (packages,) = image.at("opt/auditrelay/lib").glob("python3*/site-packages")
    names = {path.name.partition("-")[0].partition(".")[0] for path in packages.iterdir()}
    assert "auditrelay" in names
    assert names & BUILDERS == set()
    programs = {path.name for path in image.at("opt/auditrelay/bin").iterdir()}
    assert not [name for name in programs if name.startswith(("pip", "wheel", "hatch"))]


def test_there_is_no_cache(image: Image) -> None:
    left = [
        path
        for folder in CACHES
        if image.at(folder).is_dir()
        for path in files(image, folder)
        if path.stat().st_size  # apt has empty files to lock
    ]
    assert left == []


def test_the_versions_are_those_of_the_lock(image: Image) -> None:
    lock = (ROOT / "requirements.txt").read_text("utf-8")
    locked = {
        re.sub(r"[-_.]+", "_", name).lower(): version
        for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", lock, re.MULTILINE)
    }
    (packages,) = image.at("opt/auditrelay/lib").glob("python3*/site-packages")
    installed = {}
    for path in packages.glob("*.dist-info"):
        name, version = path.name.removesuffix(".dist-info").rsplit("-", 1)
        installed[re.sub(r"[-_.]+", "_", name).lower()] = version
    assert installed.pop("auditrelay") == __version__
    assert len(installed) > 20
    assert installed.items() <= locked.items()


def test_every_module_is_compiled_and_its_bytecode_is_used_whatever_a_copy_made_of_its_time(
    image: Image,
) -> None:
    """The root is read-only: what is not compiled here is compiled again at every start."""
    sources = [path for path in files(image, "opt/auditrelay/lib") if path.suffix == ".py"]
    assert len(sources) > 1000
    (version,) = (path.name for path in image.at("opt/auditrelay/lib").iterdir())
    tag = f"cpython-{version.removeprefix('python').replace('.', '')}"
    for path in sources:
        compiled = path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc"
        assert compiled.exists(), path
        with compiled.open("rb") as file:
            flags = int.from_bytes(file.read(8)[4:], "little")
        assert flags == 0b01, f"{path}: its bytecode is compared with its source"


def test_nothing_can_be_written_by_everybody(image: Image) -> None:
    found = []
    for path in image.root.rglob("*"):
        mode = path.lstat().st_mode
        shared = stat.S_ISDIR(mode) and mode & stat.S_ISVTX  # /tmp and its kind
        if mode & stat.S_IWOTH and not stat.S_ISLNK(mode) and not shared:
            found.append(str(path))
    assert found == []


def test_ours_belongs_to_root_and_gives_no_rights_but_the_state_is_the_users_alone(
    image: Image,
) -> None:
    user = tuple(int(each) for each in image.settings["User"].split(":"))
    for path, member in image.our_paths().items():
        if path == image.state.lstrip("/"):
            assert ((member.uid, member.gid), member.mode & 0o7777) == (user, 0o700)
            continue
        assert (member.uid, member.gid) == (0, 0), path
        assert not member.mode & 0o7022 or member.issym(), path


def test_it_has_nothing_of_the_machine_that_built_it(image: Image) -> None:
    """The settings of pip and the authorities that the build was given have a mark in them."""
    found = re.search(r"^MARK=(\S+)$", SCRIPT, re.MULTILINE)
    assert found
    mark = found[1].encode()
    assert mark not in repr(image.config).encode()
    assert not {name for name in image.environ if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    theirs = private_authorities(image)
    for path in files(image):
        content = path.read_bytes()
        assert mark not in content, path
        assert not [each for each in theirs if each in content], path
    for name in ("hostname", "resolv.conf"):
        path = image.at(f"/etc/{name}")
        assert not path.is_file() or not path.read_bytes(), name


def private_authorities(image: Image) -> list[bytes]:
    """Return an excerpt of each authority of this machine that the image's base does not have."""
    path = next(
        (os.environ[name] for name in ("PIP_CERT", "SSL_CERT_FILE") if os.environ.get(name)), ""
    )
    if not path:
        return []
    public = Path(image.at("/etc/ssl/certs/ca-certificates.crt")).read_bytes()
    block = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
    excerpts = [each.strip().splitlines()[4] for each in block.findall(Path(path).read_bytes())]
    distributed = b"".join(
        each.read_bytes() for each in image.at("/usr/share/ca-certificates").rglob("*.crt")
    )
    return [each for each in excerpts if each not in distributed or each not in public]


def test_its_configuration_is_that_of_the_dockerfile(image: Image) -> None:
    settings = image.settings
    assert settings["Labels"]["org.opencontainers.image.version"] == __version__
    assert settings["User"] == "10001:10001"
    assert settings["Entrypoint"] == ["auditrelay"]
    assert settings["Cmd"] == ["run"]
    assert settings["StopSignal"] == "SIGTERM"
    assert image.state == image.environ["AUDITRELAY_STATE_DIR"] == "/var/lib/auditrelay"
    assert settings["Healthcheck"]["Test"] == ["CMD", "python", "-m", "auditrelay.healthcheck"]
    assert image.environ["AUDITRELAY_STATUS__LISTEN"] == "0.0.0.0:9464"
    assert set(settings["ExposedPorts"]) == {"9464/tcp"}
