"""
Heads: what the first entries of a log were, in one word that survives CSV, mail and paper.

A head stands for a signed note of C2SP (https://c2sp.org/signed-note, and with its body for a
checkpoint, https://c2sp.org/tlog-checkpoint): the word and the public key are enough to write it.
"""

import base64
import hmac
import re
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Final

from auditrelay.evidence.tree import MOST_HASHES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET: Final = 32
"""Bytes of the configured key, and of each key that comes of it."""

_WORD: Final = re.compile(
    r"arh1\.(?P<log>[0-9a-f]{32})\.(?P<size>0|[1-9][0-9]{0,12})\.(?P<root>[0-9a-f]{64})"
    r"\.(?:-|(?P<key>[0-9a-f]{8})\.(?P<signature>[0-9a-f]{128}))"
)

WORD: Final = re.compile(r"arh1\.[0-9a-f.]+-?")
"""What looks like a head in any text: :meth:`Head.parse` says whether it is one."""

_ED25519: Final = b"\x01"
"""The kind of signature in the key id of a note."""


@dataclass(frozen=True, slots=True)
class Head:
    """
    A head: the *root* (32 bytes) over the first *size* entries of *log* (32 hex digits).

    *key_id* (8 hex digits) and *signature* (64 bytes) are empty if there is no key.
    """

    log: str
    size: int
    root: bytes
    key_id: str = ""
    signature: bytes = b""

    @property
    def word(self) -> str:
        """The head as a word: ``arh1.LOG.SIZE.ROOT.KEY.SIGNATURE``, or ``.-`` as its end."""
        signed = f"{self.key_id}.{self.signature.hex()}" if self.key_id else "-"
        return f"arh1.{self.log}.{self.size}.{self.root.hex()}.{signed}"

    @property
    def uid(self) -> str:
        """The uid of the event that carries the head, which follows from what the head says."""
        text = f"head {self.log} {self.size} {self.root.hex()}"
        return sha256(text.encode("ascii")).hexdigest()[:40]

    @classmethod
    def parse(cls, word: str) -> "Head":
        """Return the head in *word*; raise ValueError if it is not exactly what a head has."""
        found = _WORD.fullmatch(word)
        if found is None or int(found["size"]) >> MOST_HASHES:
            raise ValueError(
                f"not a head, which is arh1.LOG.SIZE.ROOT.KEY.SIGNATURE: {word[:300]!r}"
            )
        return cls(
            log=found["log"],
            size=int(found["size"]),
            root=bytes.fromhex(found["root"]),
            key_id=found["key"] or "",
            signature=bytes.fromhex(found["signature"] or ""),
        )

    def is_signed_by(self, public: bytes) -> bool:
        """Return whether the owner of the key *public* (32 bytes) has signed this head."""
        return self.key_id == key_id(public) and is_signed(
            public, self.signature, body(self.log, self.size, self.root)
        )

    def note(self, public: bytes) -> str:
        """Return the head as a note of C2SP, signed by the key *public*; ValueError without one."""
        if self.key_id != key_id(public):
            raise ValueError("the head is not signed by this key")
        name = origin(self.log)
        number = sha256(name.encode("ascii") + b"\n" + _ED25519 + public).digest()[:4]
        signed = base64.b64encode(number + self.signature).decode("ascii")
        return (
            f"{body(self.log, self.size, self.root).decode('ascii')}\n\N{EM DASH} {name} {signed}\n"
        )


def origin(log: str) -> str:
    """Return the name of *log* among all logs of the world, which is that of its key, too."""
    return f"auditrelay/{log}"


def body(log: str, size: int, root: bytes) -> bytes:
    """Return what is signed: the body of a checkpoint, with its last newline."""
    return f"{origin(log)}\n{size}\n{base64.b64encode(root).decode('ascii')}\n".encode("ascii")


def key_id(public: bytes) -> str:
    """Return the id of the key *public* in words: it is the same in every log, a note's is not."""
    return sha256(public).hexdigest()[:8]


def succession(public: bytes) -> bytes:
    """Return what a key signs to vouch for *public*, the key that replaces it."""
    return b"auditrelay key " + public.hex().encode("ascii")


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether *signature* is that of the key *public* (Ed25519) over *message*."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # only with a key
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Keys:
    """
    The two keys that come of the *secret* of an installation: one signs heads, one tags rows.

    Only the key that signs needs ``cryptography``, which is imported when it is first used.
    Raises ValueError unless the secret has 32 bytes.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a secret of another length: a short one could be guessed."""
        if len(self.secret) != SECRET:
            raise ValueError(f"the key of the evidence has {SECRET} bytes, not {len(self.secret)}")

    @cached_property
    def public(self) -> bytes:
        """The public key, 32 bytes: what an auditor keeps."""
        return self._signing.public_key().public_bytes_raw()

    @cached_property
    def key_id(self) -> str:
        """The id of the public key in words."""
        return key_id(self.public)

    def sign(self, log: str, size: int, root: bytes) -> bytes:
        """Return the signature of a head, 64 bytes."""
        return self._signing.sign(body(log, size, root))

    def head(self, log: str, size: int, root: bytes) -> Head:
        """Return the head, signed."""
        return Head(log, size, root, self.key_id, self.sign(log, size, root))

    def vouch(self, public: bytes) -> bytes:
        """Return the signature for *public*, the key that replaces this one, 64 bytes."""
        return self._signing.sign(succession(public))

    def tag(self, *parts: bytes) -> bytes:
        """Return the tag of a row of these *parts*, 32 bytes: an HMAC-SHA256 over all of them."""
        # With its length in front of each, or a byte could move from one part to the next.
        message = b"".join([len(each).to_bytes(8) + each for each in parts])
        return hmac.digest(self._tagging, message, "sha256")

    def fits(self, tag: bytes, *parts: bytes) -> bool:
        """Return whether *tag* is that of a row of these *parts*."""
        return hmac.compare_digest(tag, self.tag(*parts))

    @cached_property
    def _signing(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
            Ed25519PrivateKey,
        )

        return Ed25519PrivateKey.from_private_bytes(self._derived(b"auditrelay sign"))

    @cached_property
    def _tagging(self) -> bytes:
        return self._derived(b"auditrelay tag")

    def _derived(self, purpose: bytes) -> bytes:
        return blake2b(key=self.secret, person=purpose, digest_size=SECRET).digest()
