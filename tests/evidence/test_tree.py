"""The tree: the definition of RFC 6962, its known vectors, what a path cannot be made to prove."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.evidence.tree import MOST_HASHES, Frontier, leaf, node, path, root, root_by_path

LINES = [
    bytes.fromhex(line)
    for line in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""The leaves that the implementations of Certificate Transparency are tried with."""

ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The roots of the first 1 to 8 of them."""

LEAVES = [leaf(line) for line in LINES]


def defined(lines: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not lines:
        return sha256(b"").digest()
    if len(lines) == 1:
        return sha256(b"\x00" + lines[0]).digest()
    k = 1
    while k * 2 < len(lines):
        k *= 2
    return sha256(b"\x01" + defined(lines[:k]) + defined(lines[k:])).digest()


def defined_path(n: int, lines: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1, word for word."""
    if len(lines) == 1:
        return []
    k = 1
    while k * 2 < len(lines):
        k *= 2
    if n < k:
        return [*defined_path(n, lines[:k]), defined(lines[k:])]
    return [*defined_path(n - k, lines[k:]), defined(lines[:k])]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_the_vectors_of_certificate_transparency() -> None:
    assert root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [root(LEAVES[:size]).hex() for size in range(1, 9)] == ROOTS
    assert [each.hex() for each in path(LEAVES, 0)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [each.hex() for each in path(LEAVES[:3], 2)] == [ROOTS[1]]
    assert [each.hex() for each in path(LEAVES[:5], 1)] == [
        ROOTS[0],
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]


def test_a_frontier_has_the_root_of_all_leaves_at_every_size() -> None:
    lines, frontier = numbered(300), Frontier()
    assert frontier.root() == defined([])
    for size, line in enumerate(lines, 1):
        frontier.append(leaf(line))
        assert frontier.size == size
        assert frontier.root() == defined(lines[:size])


@given(st.lists(st.binary(max_size=40), max_size=200), st.data())
def test_the_tree_is_that_of_the_definition(lines: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf(line) for line in lines]
    assert root(leaves) == defined(lines)
    if lines:
        n = data.draw(st.integers(0, len(lines) - 1))
        assert path(leaves, n) == defined_path(n, lines)


@given(st.integers(0, 300), st.integers(0, 50))
def test_a_frontier_goes_on_where_it_was_dumped(before: int, after: int) -> None:
    lines, frontier = numbered(before + after), Frontier()
    for line in lines[:before]:
        frontier.append(leaf(line))
    loaded = Frontier.load(frontier.dump())
    assert (loaded.size, loaded.root()) == (frontier.size, frontier.root())
    for line in lines[before:]:
        loaded.append(leaf(line))
    assert loaded.root() == defined(lines)


def dumped(size: int) -> bytes:
    frontier = Frontier()
    for line in numbered(size):
        frontier.append(leaf(line))
    return frontier.dump()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(9),
        dumped(3)[:-1],
        dumped(3) + b"\x00",
        dumped(3) + bytes(32),
        (4).to_bytes(8) + dumped(3)[8:],
        (1 << MOST_HASHES).to_bytes(8) + bytes(32),
    ],
    ids=[
        "empty",
        "half a size",
        "a byte of a hash",
        "cut",
        "longer",
        "a hash more",
        "another size",
        "a size of 41 bits",
    ],
)
def test_what_is_no_frontier_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a frontier"):
        Frontier.load(data)


def test_a_frontier_has_40_hashes_at_most() -> None:
    size = (1 << MOST_HASHES) - 1
    full = Frontier.load(size.to_bytes(8) + bytes(32 * MOST_HASHES))
    with pytest.raises(OverflowError, match="2\\^40"):
        full.append(bytes(32))
    assert full.size == size


def test_every_path_of_every_small_tree_leads_to_its_root_and_to_no_other() -> None:
    for size in range(1, 40):
        leaves = [leaf(line) for line in numbered(size)]
        for n, each in enumerate(leaves):
            way = path(leaves, n)
            assert root_by_path(each, n, size, way) == root(leaves)
            other = leaves[n - 1] if size > 1 else leaf(b"another")
            assert root_by_path(other, n, size, way) != root(leaves)


@given(st.integers(2, 100), st.data())
def test_a_path_proves_one_leaf_at_one_place(size: int, data: st.DataObject) -> None:
    leaves = [leaf(line) for line in numbered(size)]
    n, other = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True))
    try:
        made = root_by_path(leaves[n], other, size, path(leaves, n))
    except ValueError:
        return
    assert made != root(leaves)


@given(st.integers(1, 100), st.data())
def test_a_path_with_a_hash_more_or_less_is_refused(size: int, data: st.DataObject) -> None:
    leaves = [leaf(line) for line in numbered(size)]
    n = data.draw(st.integers(0, size - 1))
    way = path(leaves, n)
    with pytest.raises(ValueError, match="shorter"):
        root_by_path(leaves[n], n, size, [*way, bytes(32)])
    if way:
        with pytest.raises(ValueError, match="longer"):
            root_by_path(leaves[n], n, size, way[:-1])


@pytest.mark.parametrize(("n", "size"), [(-1, 8), (8, 8), (0, 0)])
def test_there_is_no_leaf_beside_a_tree(n: int, size: int) -> None:
    with pytest.raises(ValueError, match="has no leaf"):
        root_by_path(LEAVES[0], n, size, [])
    with pytest.raises(IndexError, match="there is no leaf"):
        path(LEAVES[:size], n)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_hash_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        root_by_path(bytes(length), 0, 2, [bytes(32)])
    with pytest.raises(ValueError, match="32 bytes"):
        root_by_path(bytes(32), 0, 2, [bytes(length)])


def test_an_inner_node_is_no_leaf() -> None:
    """Who could pass 64 bytes of two hashes off as a line would prove a line that never was."""
    inner = LEAVES[0] + LEAVES[1]
    whole = root(LEAVES[:4])
    way = [root(LEAVES[2:4])]
    assert root_by_path(node(LEAVES[0], LEAVES[1]), 0, 2, way) == whole, (
        "the attack, if it were one"
    )
    assert leaf(inner) != node(LEAVES[0], LEAVES[1])
    assert root_by_path(leaf(inner), 0, 2, way) != whole
    # Nor is a tree of the leaves' hashes that of the leaves.
    assert root([leaf(LEAVES[0] + LEAVES[1]), leaf(LEAVES[2] + LEAVES[3])]) != whole
