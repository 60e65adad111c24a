"""
Who made a head: signatures (Ed25519, RFC 8032), and the keys that a pinned one vouches for.

Whether a head fits does not depend on it: see checker.py. But with a key, a false head in a SIEM is
distinguished from one that the instance has made.
"""

import base64
from hashlib import sha256, sha512
from pathlib import Path

from .checker import Head, Journal, Report

Point = tuple[int, int, int, int]  # extended coordinates: X, Y, Z, T

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
BASE_X = int("216936D3CD6E53FEC0A4E231FDD6DC5C692CC7609525A7B2C9562D608F25D51A", 16)
BASE_Y = 4 * pow(5, -1, P) % P
BASE: Point = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)
ZERO: Point = (0, 1, 1, 0)


def plus(p: Point, q: Point) -> Point:
    """Return the sum of two points of the curve (RFC 8032, 5.1.4)."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_of(public: bytes) -> Point | None:
    """Return the point that a public key (32 bytes) spells, None if it is none (5.1.3)."""
    y, odd = int.from_bytes(public, "little") & 2**255 - 1, public[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or y >= P or (odd and not x):
        return None
    x = x if x & 1 == odd else P - x
    return x, y, 1, x * y % P


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether a key (32 bytes) has made the signature (64 bytes) of a message (5.1.7)."""
    key, s = point_of(public), int.from_bytes(signature[32:], "little")
    if key is None or s >= ORDER:
        return False
    digest = int.from_bytes(sha512(signature[:32] + public + message).digest(), "little") % ORDER
    minus, total = (P - key[0], key[1], 1, P - key[3]), ZERO
    choice = (ZERO, BASE, minus, plus(BASE, minus))
    for bit in range(255, -1, -1):  # s times the base, minus digest times the key
        total = plus(plus(total, total), choice[(s >> bit & 1) + 2 * (digest >> bit & 1)])
    x, y = (each * pow(total[2], -1, P) % P for each in total[:2])
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


def id_of(public: bytes) -> str:
    """Return what names a key in a head."""
    return sha256(public).hexdigest()[:8]


def pin_in(path: Path) -> bytes:
    """Return the public key in a file; raise ValueError, which names the file, if it has none."""
    try:
        pin = base64.b64decode(path.read_bytes().strip(), validate=True)
    except ValueError:
        pin = b""
    if len(pin) != 32:
        raise ValueError(
            f"{path} is no public key: 32 bytes in base64, from evidence head --public"
        )
    return pin


def trusted_keys(journal: Journal, pins: list[bytes], report: Report) -> dict[str, bytes]:
    """Return by id the keys that are pinned, and those that a trusted one has signed."""
    trusted = {id_of(pin): pin for pin in pins}
    for entry, fact in journal.facts["key"]:
        public, signature = bytes.fromhex(fact["public"]), bytes.fromhex(fact["signature"] or "")
        text = b"auditrelay key " + fact["public"].encode()
        before = trusted.get(fact["before"])
        vouched = before is not None and is_signed(before, signature, text)
        if not vouched and public not in pins and (pins or fact["before"]):
            what = f"no known key has signed the new key {id_of(public)}"
            level = "bad" if pins else "note"
            report.say(level, "key", what if public else "there is no key any more", entry["n"])
        if vouched or not pins:
            trusted[id_of(public)] = public
    return trusted


def judge(given: list[Head], journal: Journal, report: Report, pins: list[bytes]) -> None:
    """Give the heads that are not signed as they must be the state ``unsigned`` or ``key``."""
    trusted = trusted_keys(journal, pins, report)
    keys = [(e["n"], id_of(bytes.fromhex(f["public"]))) for e, f in journal.facts["key"]]
    for head in given:
        # Of a log that was left what came behind its end is not known here.
        last = min(head.size, journal.ends.get(head.log, head.size))
        in_force = next((key for n, key in reversed(keys) if n < last), None)
        if head.key is None:
            if in_force or (pins and not keys):
                head.state = "unsigned"
        elif trusted and (pins or head.state != "beyond"):
            public = trusted.get(head.key)
            if head.state == "fit" and in_force not in {None, head.key}:
                public = None  # this head was made by the key that was in force
            if public is None or not is_signed(public, *signature_of(head)):
                head.state = "key"


def signature_of(head: Head) -> tuple[bytes, bytes]:
    """Return the signature of a head, and what it is over: the body of a C2SP checkpoint."""
    root = base64.b64encode(bytes.fromhex(head.root)).decode()
    body = f"auditrelay/{head.log}\n{head.size}\n{root}\n"
    return bytes.fromhex(head.signature or ""), body.encode()
