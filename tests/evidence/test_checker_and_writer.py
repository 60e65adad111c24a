"""What the writer writes is whole for the checker, wherever the seals fall: no code is shared."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.exports import BEGIN, HOUR

from auditrelay.evidence import facts
from auditrelay.evidence.auditor import program, proof
from auditrelay.evidence.entries import lines
from auditrelay.evidence.heads import Head, Keys
from auditrelay.evidence.tree import Frontier, leaf, path, root_by_path

HASH, LOG = bytes(range(32)), "7" * 32
MINUTE = HOUR // 60

STEPS = st.lists(
    st.sampled_from(["read", "late", "gap", "fill", "reopen", "dead", "replay", "deliver", "seal"]),
    max_size=40,
)


class Relay:
    """A source and a sink, as far as facts tell of them."""

    def __init__(self, keys: Keys | None) -> None:
        self.keys = keys
        self.open: dict[str, list[facts.Body]] = {
            "instance": [facts.started(run="0" * 32, versions={}, orderly=None)],
            "sink s": [facts.began(since={"o": 1})],
            "source o": [],
        }
        if keys is not None:
            key = facts.key(public=keys.public, before=None, signature=None)
            self.open["instance"].append(key)
        self.now = self.covered = BEGIN
        self.place = self.position = self.before = 1
        self.gaps: list[tuple[int, int]] = []
        self.letters: list[str] = []
        self.sums: Counter[str] = Counter()
        self.last: dict[str, tuple[int, int | None]] = {}
        self.frontier = Frontier()
        self.lines: list[bytes] = []
        self.heads: list[Head] = []

    def page(self, count: int, late: int = 0) -> None:
        self.open["source o"].append(
            facts.accepted(
                via="resweep 1h" if late else "poll",
                first=self.place, count=count, late=late, uids=HASH, raws=HASH, stored=HASH,
            )
        )  # fmt: skip
        self.place += count
        self.sums["accepted"] += count

    def do(self, step: str) -> None:  # noqa: C901  # one case a step
        self.now += MINUTE
        source, sink = self.open["source o"], self.open["sink s"]
        start, end = self.covered, self.now
        if step in ("read", "gap"):
            self.covered = end
        if step == "read":
            self.page(3)
            source.append(facts.covered(via="poll", start=start, end=end, before=self.place))
        elif step == "late":
            self.page(1, late=1)
        elif step == "gap":
            source.append(facts.gap(start=start, end=end, reason="retention"))
            self.gaps.append((start, end))
        elif step in ("fill", "reopen") and self.gaps:
            start, end = self.gaps.pop()
            if step == "reopen":
                source.append(facts.reopened(start=start, end=end, reason="retention", by=0))
            source.append(facts.filled(start=start, end=end, reason="retention"))
            source.append(facts.covered(via="backfill", start=start, end=end, before=self.place))
        elif step == "dead":
            uid = f"{self.place:040x}"
            self.page(1)
            sink.append(facts.dead(reason="too large", uids=[uid]))
            self.letters.append(uid)
            self.sums["dead"] += 1
        elif step == "replay" and self.letters:
            uids, self.letters = self.letters, []
            sink.append(
                facts.replayed(first=self.place, count=len(uids), uids=uids, stored=HASH, by=0)
            )
            self.place += len(uids)
            self.sums["replayed"] += len(uids)
        elif step == "deliver":
            self.position = self.place
        elif step == "seal":
            self.seal()

    def seal(self) -> None:
        if self.heads:
            head = self.heads[-1]
            fact = facts.head(size=head.size, root=head.root, taken_by=["s"])
            self.open["instance"].append(fact)
        done = facts.newly_done((self.before, ()), (self.position, ()))
        self.before = self.position
        if done:
            self.open["sink s"].append(facts.delivered(done=done))
        states: dict[str, facts.Body] = {
            "instance": {"forgotten": None, "pruned": 0},
            "sink s": {name: self.sums[name] for name in ("dead", "replayed", "dropped")}
            | {"position": self.position, "ahead": [], "since": {"o": 1}},
            "source o": {name: self.sums[name] for name in ("accepted", "put_aside", "vanished")}
            | {"started": BEGIN, "covered_until": self.covered, "looked_again": {}},
        }
        for unit, bodies in sorted(self.open.items()):
            merged = [
                facts.counted(body, events=0, uids=HASH) if body["fact"] == "covered" else body
                for body in facts.merge(bodies)
            ]
            seq, since = self.last.get(unit, (0, None))
            made = lines(
                unit, merged, states[unit],
                log=LOG, n=len(self.lines), seq=seq + 1, since=since, at=self.now,
            )  # fmt: skip
            self.last[unit] = seq + len(made), self.now
            self.lines += made
            for line in made:
                self.frontier.append(leaf(line))
            bodies.clear()
        size, root = self.frontier.size, self.frontier.root()
        head = Head(LOG, size, root) if self.keys is None else self.keys.head(LOG, size, root)
        self.heads.append(head)


@pytest.mark.parametrize("keys", [None, Keys(HASH)], ids=["without a key", "with a key"])
def test_the_checker_finds_nothing_in_what_the_writer_wrote(
    keys: Keys | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @settings(max_examples=25 if keys else 100, deadline=None)
    @given(STEPS)
    def wrote(steps: list[str]) -> None:
        relay = Relay(keys)
        for step in [*steps, "seal"]:
            relay.do(step)
        report = checked(relay, tmp_path_factory.getbasetemp(), [keys.public] if keys else [])
        assert report["findings"] == []
        assert report["heads"]["fit"] == len(relay.heads)
        assert report["entries"] == len(relay.lines)

    wrote()


def test_an_entry_of_several_lines(tmp_path: Path) -> None:
    relay = Relay(None)
    relay.do("read")
    uids = [f"{number:040x}" for number in range(4000)]
    relay.open["sink s"].append(facts.dead(reason="too large", uids=uids))
    relay.sums["dead"] += len(uids)
    relay.do("seal")
    relay.do("seal")
    assert len(relay.lines) > 7
    assert checked(relay, tmp_path, [])["findings"] == []


def test_the_paths_of_the_writer_lead_to_the_roots_of_the_checker() -> None:
    texts = [str(number) for number in range(33)]
    leaves = [leaf(each.encode()) for each in texts]
    for n in range(len(texts)):
        steps = path(leaves, n)
        found = proof.root_by_path(leaves[n], n, len(texts), [step.hex() for step in steps])
        assert found == root_by_path(leaves[n], n, len(texts), steps)


def checked(relay: Relay, folder: Path, pins: list[bytes]) -> dict[str, Any]:
    (folder / "journal.ndjson").write_bytes(b"".join(line + b"\n" for line in relay.lines))
    (folder / "witness.txt").write_text("\n".join(head.word for head in relay.heads))
    return program.check([folder], [folder / "witness.txt"], pins, {}, [])
