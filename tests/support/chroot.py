"""A clean Debian in a folder, which root enters, for the tests of the .deb."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PACKAGES: Final = ("python3", "ca-certificates", "systemd")
"""What the package depends on, and systemd: no resolver may be needed to install it."""

_ENTER: Final = """
set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -t tmpfs -o mode=755 tmpfs "$0/dev"
for each in null zero full random urandom; do
  : >"$0/dev/$each"
  mount --bind "/dev/$each" "$0/dev/$each"
done
exec chroot "$0" "$@"
"""
_UNSHARE: Final = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")


def make_base(archive: Path, release: str) -> str:
    """Write a minimal Debian *release* into *archive*; return why not, or nothing."""
    if shutil.which("mmdebstrap") is None:
        return "a clean Debian needs mmdebstrap, which is not installed"
    ended = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *("--skip=output/dev", release, str(archive)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"mmdebstrap could not make a Debian: {ended.stderr[-300:]}" if ended.returncode else ""


class Chroot:
    """The Debian that *archive* has, unpacked into *root*."""

    def __init__(self, archive: Path, root: Path) -> None:
        self.root = root
        root.mkdir()
        subprocess.run(["tar", "-C", str(root), "-xpf", str(archive)], check=True)
        root.chmod(0o755)
        (root / "dev").mkdir(exist_ok=True)

    def at(self, path: str) -> Path:
        """Return where *path* of the Debian is for us; it may not be, or lie behind, a link."""
        return self.root / path.lstrip("/")

    def command(self, *arguments: str, user: int | None = None) -> list[str]:
        """Return the command that runs *arguments* in it: as root, or as *user* without a right."""
        drop = (
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
            *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
        )
        inside = (*(drop if user is not None else ()), *arguments)
        return [*_UNSHARE, "sh", "-c", _ENTER, str(self.root), *inside]

    def run(
        self,
        *arguments: str,
        user: int | None = None,
        environ: Mapping[str, str] | None = None,
        status: int = 0,
    ) -> str:
        """Run *arguments* in it to their end, with *status*; return what they print."""
        ended = subprocess.run(
            self.command(*arguments, user=user),
            env=environment(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr


def environment(others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a command in a chroot: nothing of ours."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": path,
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        **(others or {}),
    }
