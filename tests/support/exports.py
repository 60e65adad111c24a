"""
Exports of evidence as the checker's tests need them: honest ones, and the means to forge them.

It shares no code with the writer of the evidence, so that the checker is tried against the format
and not against our own reading of it.
"""

import base64
import copy
import json
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HOUR = 3_600_000_000
BEGIN = 1_795_651_200_000_000
"""2026-11-26T00:00:00Z."""

Fact = dict[str, Any]


def root(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962 defines it, by recursion."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + root(leaves[:half]) + root(leaves[half:])).digest()


def path(leaves: list[bytes], n: int) -> list[bytes]:
    """Return the audit path of leaf *n* as RFC 6962 defines it, by recursion."""
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if n < half:
        return [*path(leaves[:half], n), root(leaves[half:])]
    return [*path(leaves[half:], n - half), root(leaves[:half])]


def leaf(line: bytes) -> bytes:
    return sha256(b"\x00" + line).digest()


def hashes(parts: list[bytes]) -> str:
    """Return the digest of the pages of a fact, given what each is hashed over."""
    digest = bytes(32)
    for part in parts:
        digest = sha256(digest + sha256(part).digest()).digest()
    return digest.hex()


def text(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")


class Export:
    """
    The evidence of an instance with the source *okta* and the sink *splunk*, hour by hour.

    ``hour`` seals an honest hour; what is passed to it replaces or adds facts and states.
    """

    def __init__(self, *, log: str = "7346c92ec83c0c19152a6840060797e1", key: bytes = b"") -> None:
        self.log = log
        self.secret = Ed25519PrivateKey.from_private_bytes(key) if key else None
        self.lines: list[bytes] = []
        self.heads: list[str] = []
        self.sealed: list[int] = []
        """When each head was sealed."""
        self.at = BEGIN
        self.place = 1
        self.position = 1
        self.waiting: list[tuple[list[Any], int]] = []
        self.units: dict[str, dict[str, Any]] = {}
        self.sums: dict[str, Counter[str]] = {}
        self.events: list[dict[str, Any]] = []
        """time, uid, raw_sha256, place and the entry of each event."""
        self.pages: list[dict[str, Any]] = []

    @property
    def public(self) -> bytes:
        assert self.secret is not None
        return self.secret.public_key().public_bytes_raw()

    def copy(self) -> "Export":
        """Return a copy that goes its own way, like a restored backup."""
        secret, self.secret = self.secret, None
        other = copy.deepcopy(self)
        self.secret = other.secret = secret
        return other

    def page(self, count: int, *, start: int | None = None, salt: str = "") -> list[dict[str, Any]]:
        """Return *count* new events at the next places."""
        begin = self.at if start is None else start
        made = []
        for number in range(count):
            seed = f"{salt}{self.place}"
            made.append(
                {
                    "time": begin + number * 1_000_000,
                    "uid": sha256(f"uid {seed}".encode()).hexdigest()[:40],
                    "raw_sha256": sha256(f"raw {seed}".encode()).hexdigest(),
                    "place": self.place,
                }
            )
            self.place += 1
        return made

    def accepted(self, *pages: list[dict[str, Any]], via: str = "poll", late: int = 0) -> Fact:
        """Return the fact of *pages*; they are listed in uids.ndjson once it is sealed."""
        joined = [b"".join(map(key, page)) for page in pages]
        return {
            "fact": "accepted",
            "via": via,
            "pages": [[page[0]["place"], len(page)] for page in pages],
            "events": sum(map(len, pages)),
            "late": late,
            "uids": hashes(joined),
            "raws": hashes(["".join(e["raw_sha256"] for e in page).encode() for page in pages]),
            "stored": hashes(joined),
            "_pages": pages,
        }

    def covered(self, events: list[dict[str, Any]], start: int, end: int) -> Fact:
        inside = sorted(key(event) for event in events if start <= event["time"] < end)
        return {
            "fact": "covered",
            "via": "poll",
            "start": start,
            "end": end,
            "before": self.place,
            "events": len(inside),
            "uids": sha256(b"".join(inside)).hexdigest(),
        }

    def hour(
        self,
        count: int = 3,
        *,
        source: list[Fact] | None = None,
        sink: list[Fact] | None = None,
        instance: list[Fact] | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
        cover: bool = True,
        deliver: bool = True,
        name: str = "okta",
        salt: str = "",
    ) -> "Export":
        """Seal an hour in which *count* events are read and covered, and the sink takes them."""
        start = self.at
        page = self.page(count, start=start, salt=salt)
        self.at += HOUR
        facts = [self.accepted(page)] if count else []
        if cover:
            facts.append(self.covered(page, start, self.at))
        done = self.place - self.position if deliver else 0
        first, self.position = self.position, self.place if deliver else self.position
        delivered = [{"fact": "delivered", "done": [[first, done]]}] if done else []
        states: dict[str, dict[str, Any]] = {
            "instance": {"forgotten": None, "pruned": 0},
            "sink splunk": {"position": self.position, "ahead": [], "since": {"okta": 1}},
            f"source {name}": {"started": BEGIN, "covered_until": self.at, "looked_again": {}},
        }
        began = [] if self.lines else [{"fact": "began", "since": {"okta": 1}}]
        begun = [] if self.lines else [{"fact": "started", "run": "0" * 32, "versions": {}}]
        return self.seal(
            {
                "instance": begun + (instance or []),
                "sink splunk": began + (sink or []) + delivered,
                f"source {name}": (source or []) + facts,
            },
            states,
            change,
        )

    def seal(
        self,
        facts: dict[str, list[Fact]],
        states: dict[str, dict[str, Any]],
        change: Callable[[dict[str, Any]], None] | None = None,
    ) -> "Export":
        """Write the entries of a seal, and its head."""
        if self.heads:
            _, _, size, digest, *_ = self.heads[-1].split(".")
            facts["instance"].append({"fact": "head", "size": int(size), "root": digest})
        for unit in sorted(facts):
            sums = self.sums.setdefault(unit, Counter())
            names: dict[str, tuple[str, ...]] = {"source": ("accepted", "put_aside", "vanished")}
            names["sink"] = ("dead", "replayed", "dropped", "excluded")
            for fact in facts[unit]:
                sums[fact["fact"]] += fact.get("events", 0)
            state = {name: sums[name] for name in names.get(unit.split()[0], ())}
            last = self.units.get(unit, {"seq": 0, "at": None})
            entry = {
                "at": self.at,
                "facts": facts[unit],
                "log": self.log,
                "n": len(self.lines),
                "seq": last["seq"] + 1,
                "since": last["at"],
                "state": state | states[unit],
                "unit": unit,
                "v": 1,
            }
            for fact in facts[unit]:
                for page in fact.pop("_pages", []):
                    self.events += [event | {"n": len(self.lines), "unit": unit} for event in page]
                    keys = base64.b64encode(b"".join(map(key, page))).decode()
                    first = page[0]["place"]
                    self.pages.append({"n": len(self.lines), "first": first, "keys": keys})
            if change:
                change(entry)
            self.units[unit] = {"seq": last["seq"] + 1, "at": self.at}
            self.lines.append(text(entry))
        self.tell()
        return self

    def tell(self) -> None:
        """Make the head over all entries."""
        self.heads.append(self.head(len(self.lines)))
        self.sealed.append(self.at)

    def root(self, size: int) -> bytes:
        return root([leaf(line) for line in self.lines[:size]])

    def head(self, size: int) -> str:
        """Return the head over the first *size* entries, signed if there is a key."""
        word = f"arh1.{self.log}.{size}.{self.root(size).hex()}"
        if self.secret is None:
            return f"{word}.-"
        digest = base64.b64encode(self.root(size)).decode()
        body = f"auditrelay/{self.log}\n{size}\n{digest}\n".encode()
        key_id = sha256(self.public).hexdigest()[:8]
        return f"{word}.{key_id}.{self.secret.sign(body).hex()}"

    def branch(self, log: str, why: str = "no tip: restored, copied or moved") -> Fact:
        """Go on in a new *log*; return the fact that says so, of the next seal."""
        before, self.log = self.log, log
        digest = self.root(len(self.lines)).hex()
        fact = {"fact": "continued", "log": before, "size": len(self.lines), "root": digest}
        return fact | {"why": why}

    def write(self, folder: Path) -> Path:
        """Write the export into *folder*."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "journal.ndjson").write_bytes(b"".join(line + b"\n" for line in self.lines))
        (folder / "heads.txt").write_text("".join(f"{head}\n" for head in self.heads))
        (folder / "uids.ndjson").write_bytes(b"".join(text(page) + b"\n" for page in self.pages))
        return folder

    def splunk(self, file: Path, heads: list[str] | None = None, delay: int = 60) -> Path:
        """Write what Splunk exports of the heads' events."""
        rows = ["_time,_indextime,event_id,description"]
        for head in self.heads if heads is None else heads:
            at = self.sealed[self.heads.index(head)] // 1_000_000 if head in self.heads else 0
            size = head.split(".")[2]
            rows.append(
                f'{at},{at + delay},{"0" * 40},"Ledger sealed: {size} entries, head {head}"'
            )
        file.write_text("\n".join(rows) + "\n")
        return file

    def proof(self, uid: str) -> dict[str, Any]:
        """Return the proof of one event."""
        event = next(event for event in self.events if event["uid"] == uid)
        entry = json.loads(self.lines[event["n"]])
        leaves = [leaf(line) for line in self.lines]

        def proved(n: int) -> dict[str, Any]:
            steps = [step.hex() for step in path(leaves, n)]
            return {"n": n, "line": self.lines[n].decode(), "path": steps}

        (fact,) = (each for each in entry["facts"] if each["fact"] == "accepted")
        pages = [page for page in self.pages if page["n"] == event["n"]]
        keys = [base64.b64decode(page["keys"]) for page in pages]
        at = next(
            i for i, page in enumerate(pages) if event["place"] < page["first"] + len(keys[i])
        )
        sinks = {}
        for n, line in enumerate(self.lines):
            each = json.loads(line)
            done = [pair for part in each["facts"] for pair in part.get("done", ())]
            if any(first <= event["place"] < first + count for first, count in done):
                sinks[each["unit"].removeprefix("sink ")] = proved(n)
        assert fact["pages"]
        return {
            "v": 1,
            "uid": uid,
            "at": event["time"],
            "source": entry["unit"].removeprefix("source "),
            "accepted": proved(event["n"]),
            "page": {
                "d": hashes(keys[:at]),
                "keys": pages[at]["keys"],
                "after": [sha256(each).hexdigest() for each in keys[at + 1 :]],
            },
            "sinks": sinks,
            "head": self.heads[-1],
        }


def key(event: dict[str, Any]) -> bytes:
    """Return the key that an event is known by: its time and its uid."""
    return bytes((event["time"] + (1 << 63)).to_bytes(8) + bytes.fromhex(event["uid"]))
