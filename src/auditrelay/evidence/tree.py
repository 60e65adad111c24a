"""
The Merkle tree over the entries, as RFC 6962 defines it (https://www.rfc-editor.org/rfc/rfc6962#section-2.1).

Leaves and inner nodes are hashed with different first bytes, so that no inner node passes for a
leaf. A tree only grows: the root of its first *n* leaves can be computed for ever.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

HASH: Final = 32
"""Bytes of a hash."""

MOST_HASHES: Final = 40
"""How many hashes a frontier has at most: a tree has fewer than 2^40 leaves."""

_SIZE: Final = 8
"""Bytes of the size in front of the hashes of a frontier."""


def leaf(line: bytes) -> bytes:
    """Return the hash of the leaf *line*, an entry without its newline."""
    return sha256(b"\x00" + line).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of the inner node above *left* and *right*."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """
    What is needed of a tree to append to it: the roots of its complete parts, the largest first.

    The sizes of these parts are the powers of two that *size*, the number of leaves, consists of.
    """

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Append the hash of a *leaf*; raise OverflowError beyond 2^40 leaves."""
        if self.size + 1 >> MOST_HASHES:
            raise OverflowError("a tree has fewer than 2^40 leaves")
        size = self.size
        while size & 1:
            leaf = node(self._parts.pop(), leaf)
            size >>= 1
        self._parts.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root, the hash of all leaves; of no leaves that of nothing."""
        if not self._parts:
            return sha256().digest()
        *rest, root = self._parts
        for part in reversed(rest):
            root = node(part, root)
        return root

    def dump(self) -> bytes:
        """Return the frontier as bytes: its size, eight bytes, and 32 for each complete part."""
        return self.size.to_bytes(_SIZE) + b"".join(self._parts)

    @classmethod
    def load(cls, data: bytes) -> "Frontier":
        """Return the frontier that :meth:`dump` wrote as *data*; raise ValueError if it did not."""
        self = cls()
        self.size = int.from_bytes(data[:_SIZE])
        if len(data) < _SIZE or self.size >> MOST_HASHES:
            raise ValueError("not a frontier: its size is missing or too large")
        if len(data) != _SIZE + HASH * self.size.bit_count():
            raise ValueError(f"not a frontier of {self.size} leaves: it has {len(data)} bytes")
        self._parts = [data[at : at + HASH] for at in range(_SIZE, len(data), HASH)]
        return self


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over the hashes of *leaves*."""
    frontier = Frontier()
    for each in leaves:
        frontier.append(each)
    return frontier.root()


def path(leaves: Sequence[bytes], n: int) -> list[bytes]:
    """
    Return the hashes that lead from leaf *n* to the root over *leaves*, from the leaf upwards.

    It is the audit path of RFC 6962, 2.1.1. Raises IndexError if there is no leaf *n*.
    """
    if not 0 <= n < len(leaves):
        raise IndexError(f"there is no leaf {n} among {len(leaves)}")
    level, found = list(leaves), list[bytes]()
    while len(level) > 1:
        sibling = n ^ 1
        if sibling < len(level):
            found.append(level[sibling])
        # A last one without a sibling rises as it is.
        above = [node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = above + level[len(above) * 2 :]
        n >>= 1
    return found


def root_by_path(leaf: bytes, n: int, size: int, path: Sequence[bytes]) -> bytes:
    """
    Return the root of a tree with *size* leaves to which *path* leads from *leaf*, its number *n*.

    The path proves the leaf if that is the root that is known. Raises ValueError if no such path
    has so many hashes, or one of another length.
    """
    if not 0 <= n < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {n}")
    if any(len(each) != HASH for each in (leaf, *path)):
        raise ValueError(f"a hash has {HASH} bytes")
    hashes = iter(path)
    last = size - 1
    try:
        while last:
            if n & 1:
                leaf = node(next(hashes), leaf)
            elif n < last:
                leaf = node(leaf, next(hashes))
            n >>= 1
            last >>= 1
    except StopIteration:
        raise ValueError(f"a path in a tree of {size} leaves is longer") from None
    if next(hashes, None) is not None:
        raise ValueError(f"a path in a tree of {size} leaves is shorter")
    return leaf
