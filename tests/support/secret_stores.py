"""
Files of secrets as each product lays them out, and as it replaces them when a secret is rotated.

Rebuilt from the products' own source; each class names where. What they have in common: a reader
sees the old file or the new one, never half of one, and never the same inode changed.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


class Layout(Protocol):
    """A folder of secrets that a product keeps up to date."""

    def write(self, secrets: Mapping[str, str]) -> None:
        """Bring *secrets* into the folder, the first time or again."""


class Projected:
    """
    A volume of Kubernetes: of a Secret (also one that External Secrets makes), or a CSI driver's.

    Each name is a link into ``..data``, which is a link to a folder with the time in its name;
    one rename turns it to the next folder, for all names at once, and the former one is deleted.

    https://github.com/kubernetes/kubernetes/blob/master/pkg/volume/util/atomic_writer.go, of which
    the Secrets Store CSI driver has a copy:
    https://github.com/kubernetes-sigs/secrets-store-csi-driver/blob/main/pkg/util/fileutil/atomic_writer.go
    """

    def __init__(self, folder: Path, mode: int) -> None:
        self._folder = folder
        self._mode = mode
        folder.mkdir(0o755)

    def write(self, secrets: Mapping[str, str]) -> None:
        """Write all of them into a new folder, and turn the link to it."""
        data = self._folder / "..data"
        former = self._folder / data.readlink() if data.is_symlink() else None
        stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
        made = Path(tempfile.mkdtemp(prefix=stamp, dir=self._folder))
        made.chmod(0o755)
        for name, secret in secrets.items():
            (made / name).write_text(secret)
            (made / name).chmod(self._mode)
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(f"..data/{name}")
        turned = self._folder / "..data_tmp"
        turned.symlink_to(made.name)
        turned.rename(data)
        if former is not None:
            shutil.rmtree(former)


class Renamed:
    """
    Plain files, each replaced by the rename of a temporary one beside it.

    The Vault Agent, which renders with consul-template:
    https://github.com/hashicorp/consul-template/blob/main/renderer/renderer.go (AtomicWrite), and
    the AWS provider of the CSI driver, unless the driver writes for it (writeFile):
    https://github.com/aws/secrets-store-csi-driver-provider-aws/blob/main/server/server.go
    """

    def __init__(self, folder: Path, mode: int) -> None:
        self._folder = folder
        self._mode = mode
        folder.mkdir(0o755)

    def write(self, secrets: Mapping[str, str]) -> None:
        """Replace one after the other; for a moment one is new and the next is old."""
        for name, secret in secrets.items():
            file, made = tempfile.mkstemp(dir=self._folder, prefix=name)
            with os.fdopen(file, "w") as written:
                written.write(secret)
                written.flush()
                os.fsync(file)
            Path(made).chmod(self._mode)
            Path(made).rename(self._folder / name)
