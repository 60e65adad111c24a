"""The image as ``docker save`` writes it: its configuration, its layers and its files."""

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

VARIABLE: Final = "TEST_IMAGE"
"""The archive of the image that the tests of ``tests/image`` are about."""

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_OUR_FIRST_LINE = "org.opencontainers.image.title"
"""In the history of an image, what follows the line with this one comes from our Dockerfile."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its bytes as a tar archive, and what it has, by path without a leading slash."""

    size: int
    members: dict[str, tarfile.TarInfo]


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose files are in the folder *root*. *ours* are its layers above the base."""

    config: dict[str, Any]
    base: list[Layer]
    ours: list[Layer]
    root: Path

    @classmethod
    def unpack(cls, archive: Path, root: Path) -> Self:
        """Read *archive*, and write the files of the image into *root*, as root."""
        with tarfile.open(archive) as outer:
            (manifest,) = json.loads(_read(outer, "manifest.json"))
            config = json.loads(_read(outer, manifest["Config"]))
            layers = [_apply(outer, name, root) for name in manifest["Layers"]]
        steps = config["history"]
        first = next(
            at for at, step in enumerate(steps) if _OUR_FIRST_LINE in step.get("created_by", "")
        )
        ours = sum(not step.get("empty_layer", False) for step in steps[first:])
        at = len(layers) - ours
        return cls(config, layers[:at], layers[at:], root)

    @property
    def settings(self) -> dict[str, Any]:
        """What the Dockerfile says of how it is run: ``Env``, ``User``, ``Entrypoint``..."""
        settings: dict[str, Any] = self.config["config"]
        return settings

    @property
    def environ(self) -> dict[str, str]:
        """The environment that the image sets."""
        return dict(line.split("=", 1) for line in self.settings["Env"])

    @property
    def state(self) -> str:
        """The path of its volume."""
        (path,) = self.settings["Volumes"]
        return str(path)

    def at(self, path: str) -> Path:
        """Return where the file *path* of the image is here."""
        return self.root / path.lstrip("/")

    def our_paths(self) -> dict[str, tarfile.TarInfo]:
        """Return what the layers above the base have, by path."""
        return {path: member for layer in self.ours for path, member in layer.members.items()}


def _read(outer: tarfile.TarFile, name: str) -> bytes:
    file = outer.extractfile(name)
    assert file is not None, f"no file {name} in the archive"
    return file.read()


def _apply(outer: tarfile.TarFile, name: str, root: Path) -> Layer:
    file = outer.extractfile(name)
    assert file is not None, f"no layer {name} in the archive"
    members = {}
    with tarfile.open(fileobj=file) as layer:
        for member in layer:
            path = PurePosixPath(member.name.lstrip("/"))
            assert ".." not in path.parts, member.name
            members[str(path)] = member
            if path.name == _OPAQUE:
                _empty(root / path.parent)
            elif path.name.startswith(_WHITEOUT):
                _remove(root / path.with_name(path.name.removeprefix(_WHITEOUT)))
            else:
                _extract(layer, member, root / path, root)
        return Layer(layer.offset, members)


def _extract(layer: tarfile.TarFile, member: tarfile.TarInfo, path: Path, root: Path) -> None:
    if member.isdev():
        return  # a container gets its devices from the engine
    if os.path.lexists(path) and not (member.isdir() and path.is_dir() and not path.is_symlink()):
        _remove(path)
    layer.extract(member, root, numeric_owner=True, filter="fully_trusted")


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        _remove(each)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        _empty(path)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
