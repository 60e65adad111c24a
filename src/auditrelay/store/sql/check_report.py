"""What a check of the state finds: each finding with its code and what to do, and the outcome."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from auditrelay.store import Fact

_KEEP: Final = (
    "keep a copy of the state directory as it is; compare with an older export or a backup, and "
    "find out who can write to it"
)
_DO: Final = {
    "nothing": "start the service, or name its state directory; it then seals within 5 minutes",
    "order": _KEEP,
    "cut": _KEEP,
    "form": _KEEP,
    "rewritten": _KEEP,
    "ledger": f"{_KEEP}; auditrelay verify SOURCE reads that time again",
    "known": f"{_KEEP}; auditrelay verify SOURCE shows which events it is about",
    "spool": f"{_KEEP}; auditrelay verify SOURCE --repair sends what is missing",
    "position": f"{_KEEP}; compare with what the SIEM holds",
    "letters": f"{_KEEP}; auditrelay verify SOURCE shows what the sink lacks",
    "key": f"if it is new: start the service, which sets the tags by it; if it is not: {_KEEP}",
    "state": _KEEP,
    "head_absent": "auditrelay evidence check DIR --witness FILE says whether its sink was away",
    "branch": "say who has restored, copied or moved the state: auditrelay evidence restored",
    "head_foreign": "compare with the configuration: is it the head of this instance?",
    "downtime": "see that the service runs, and whether its log has ledger_not_sealed",
}

CODES: Final = frozenset(_DO)
"""The codes of what may be found."""

FAULTS: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading may raise if it is not as we write it."""

_EXPLAINED: Final = "an operator has said why; what was lost is shown by: auditrelay evidence check"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Something that does not fit: *what*, and what to *do*.

    *entry* and *at* (microseconds) say where in the log, *where* in which part of the state.
    """

    level: str
    code: str
    entry: int | None
    at: int | None
    where: str | None
    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Left:
    """A log that was left for another one: the *fact*, and why, as operators have *said* since."""

    fact: Fact
    said: tuple[str, ...]

    @property
    def log(self) -> str:
        """The log that was left."""
        return str(self.fact.body["log"])

    def finding(self, beyond: int = 0, newest: int = 0) -> Finding:
        """Return what to say of it: so many heads lie *beyond*, the largest is *newest*."""
        body = self.fact.body
        what = f"log {self.log} was left for another one at entry {body['size']}: {body['why']} "
        what += f"({'; '.join(self.said) or 'no operator has said why'})"
        if beyond:
            what += f"; {beyond} heads of it lie beyond, the newest over {newest}"
        level, do = ("note", _EXPLAINED) if self.said else ("bad", _DO["branch"])
        return Finding(level, "branch", self.fact.entry, self.fact.at, None, what, do)


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of a check: the log, its newest head, and what does not fit, if anything."""

    log: str | None
    entries: int
    until: int | None
    """When the newest head was made."""
    head: str | None
    heads: int
    """How many heads were compared: those of the state, and those from outside."""
    fit: int
    contradict: int
    """How many have another root than the entries, or are over more than there are."""
    findings: tuple[Finding, ...]
    branches: tuple[Left, ...] = ()
    absent: int = 0
    """How many heads of the state are missing in files from outside, between others."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not any(each.level == "bad" for each in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return it as ``evidence check --json`` prints it."""
        return {
            "whole": self.whole,
            "log": self.log,
            "entries": self.entries,
            "until": self.until,
            "heads": {
                "given": self.heads,
                "fit": self.fit,
                "absent": self.absent,
                "contradict": self.contradict,
            },
            "branches": [{**each.fact.body, "n": each.fact.entry} for each in self.branches],
            "findings": [asdict(each) for each in self.findings],
        }


def nothing(what: str) -> Checked:
    """Return the outcome if there is nothing to check: that is a finding, not a success."""
    return Checked(None, 0, None, None, 0, 0, 0, (bad("nothing", what),))


def bad(
    code: str,
    what: str,
    *,
    where: str | None = None,
    entry: int | None = None,
    at: int | None = None,
) -> Finding:
    """Return a finding that is bad: what has the *code* does not fit."""
    return Finding("bad", code, entry, at, where, what, _DO[code])


def with_unknown(checked: Checked, sources: Iterable[str]) -> Checked:
    """Return *checked* with a finding for each of the configured *sources* that are not known."""
    what = "it is configured, and nothing is known of it"
    found = [bad("nothing", what, where=f"source {name}") for name in sources]
    return replace(checked, findings=(*checked.findings, *found))
