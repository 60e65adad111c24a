"""
Begins a program as process 1 of a container: the last step of what a container engine does.

``unshare`` has made the namespaces, and ``container.py`` calls this with one argument, JSON. Then
it is the program: read-only root, ``/proc``, a ``/dev`` of five files, one volume, no capabilities,
no new privileges. It imports the standard library alone.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Final

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096  # mount.h
_CAPBSET_DROP, _NO_NEW_PRIVS, _CAPABILITIES = 24, 38, 64  # prctl.h
_SIOCSIFFLAGS, _UP = 0x8914, 1  # sockios.h, if.h
DEVICES: Final = ("null", "zero", "full", "random", "urandom")

libc = ctypes.CDLL(None, use_errno=True)


def _check(returned: int, what: str) -> None:
    if returned:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    given = [each.encode() for each in (source, str(target), kind)]
    _check(libc.mount(*given, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP))


def _mount_all(root: Path, volume: str, at: str) -> None:
    _mount(str(root), root, flags=_BIND)
    _mount("proc", root / "proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    _mount("tmpfs", root / "dev", "tmpfs", _NOSUID | _NOEXEC, "mode=755,size=64k")
    for name in DEVICES:
        (root / "dev" / name).touch()
        _mount(f"/dev/{name}", root / "dev" / name, flags=_BIND)
    _mount(volume, root / at.lstrip("/"), flags=_BIND)
    _mount("", root, flags=_REMOUNT | _BIND | _RDONLY)


def _give_up_rights(uid: int, gid: int) -> None:
    for number in range(_CAPABILITIES):
        if libc.prctl(_CAPBSET_DROP, number, 0, 0, 0):
            break  # the kernel knows no more of them
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def main() -> None:
    """Become the program that the argument describes."""
    asked = json.loads(sys.argv[1])
    if asked["own_network"]:
        _bring_loopback_up()
    _mount_all(Path(asked["root"]), asked["volume"], asked["at"])
    os.chroot(asked["root"])
    os.chdir(asked["folder"])
    _give_up_rights(*asked["user"])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a child inherits
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(asked["command"][0], asked["command"], asked["environ"])


if __name__ == "__main__":
    main()
