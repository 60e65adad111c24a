"""The uids of an export: what was accepted, one by one, as far as uids.ndjson lists it."""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from .checker import Fact, Journal, Stop

OWN = {"notice", "replay"}  # kinds of what is auditrelay's own, or was accepted before


@dataclass
class Accepted:
    """A fact that a source has accepted events, and its pages: the keys of each, joined."""

    n: int
    source: str
    fact: Fact
    pages: list[bytes]

    def events(self) -> Iterator[tuple[int, bytes]]:
        """Yield place and key of each event: 8 bytes of time, and 20 of its uid."""
        for (first, _), page in zip(self.fact["pages"], self.pages, strict=True):
            for number in range(len(page) // 28):
                yield first + number, page[28 * number : 28 * number + 28]


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a file, whatever is in it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file


def chain(digests: Iterable[bytes], total: bytes = bytes(32)) -> str:
    """Return the digest of pages with these *digests*."""
    for digest in digests:
        total = sha256(total + digest).digest()
    return total.hex()


def accepted_in(journal: Journal) -> list[Accepted] | None:
    """Return what was accepted, None if uids.ndjson has not all uids of it."""
    pages: dict[tuple[int, int], bytes] = {}
    file, whole = journal.path.parent / "uids.ndjson", True
    for line in lines_of(file) if file.exists() else ():
        page = json.loads(line)
        pages[page["n"], page["first"]] = base64.b64decode(page["keys"])
    found = []
    for entry, fact in journal.facts["accepted"]:
        keys = [pages.pop((entry["n"], first), b"") for first, _ in fact["pages"]]
        whole &= [len(each) for each in keys] == [28 * count for _, count in fact["pages"]]
        if all(keys) and chain(sha256(page).digest() for page in keys) != fact["uids"]:
            raise Stop("known", f"{entry['unit']}: uids.ndjson has others than it accepted")
        found.append(Accepted(entry["n"], entry["unit"].removeprefix("source "), fact, keys))
    if pages:
        raise Stop("known", f"uids.ndjson has a page that no entry has: {min(pages)}")
    return found if whole else None


def compared(
    accepted: Iterable[Accepted], theirs: dict[bytes, str]
) -> Iterator[tuple[Accepted, bool]]:
    """Yield the facts all of whose records they have, and whether these have other digests."""
    for each in accepted:
        uids = ([page[i + 8 : i + 28] for i in range(0, len(page), 28)] for page in each.pages)
        raws = [[theirs.get(uid, "") for uid in page] for page in uids]
        digests = [sha256("".join(page).encode()).digest() for page in raws]
        if all(map(all, raws)):
            yield each, chain(digests) != each.fact["raws"]
