"""
What ``status --json`` and ``/api/status`` print, as values: the report, its rows and its findings.

The fields are the keys, in their order. ``docs/status.schema.json`` is made from this module.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from auditrelay.settings import Proves

Kind = Literal["source", "sink"]

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""ISO 8601, UTC."""


class Credential(Struct, frozen=True):
    """A key of the configuration that is a secret; its value is never in the report."""

    key: str
    references: tuple[str, ...]
    """What it refers to, as written in the file: ``${env:NAME}``, ``${file:/run/secrets/x}``."""


class CoverageSpan(Struct, frozen=True):
    """A span of event time that was read, or that is a declared gap."""

    start: Time
    end: Time
    state: Literal["covered", "gap"]
    reason: str | None
    """Why it is a gap."""
    events: int


class LateFind(Struct, frozen=True):
    """Events that were found in time that had been read before."""

    start: Time
    end: Time
    events: int
    via: str
    """The kind of read that found them."""
    found_at: Time


class PeerStatus(Struct, frozen=True, kw_only=True):
    """What a source and a sink have in common."""

    kind: ClassVar[Kind]

    name: str
    type: str | None
    """Null if it is not configured any more."""
    enabled: bool
    orphaned: bool | UnsetType = UNSET
    """True if it is in the state and not in the configuration any more, else left out."""
    address_key: str | UnsetType = UNSET
    """The key of its address in the configuration; left out if it is orphaned."""
    credentials: tuple[Credential, ...] | UnsetType = UNSET
    """Its secrets; left out if it is orphaned."""
    held_by: str | UnsetType | None = UNSET
    """
    The replica that works for it, null if no live one does; left out without a shared store. Of a
    sink in parts those that do, with commas.
    """


class ReplicaStatus(Struct, frozen=True, kw_only=True):
    """One of the replicas on a shared store."""

    name: str
    version: str
    since: Time
    """When it joined."""
    alive: bool
    units: tuple[str, ...]
    """What it holds: ``source NAME``, ``sink NAME`` or its part ``sink NAME p/n``, ``keeper``."""
    stuck: tuple[str, ...]
    """Its loops that make no progress."""
    unable: dict[str, str] = {}
    """What it is configured for and cannot serve now, and why: ``source NAME``, ``sink NAME``."""
    clock_offset_seconds: float = 0.0
    """How far the clock of the database is ahead of its clock."""
    round_trip_seconds: float = 0.0
    """How long its last pulse took in the shared store."""
    old_rows: int = 0
    """Old versions of rows in a small table of the store, if it is the keeper."""


class StoreStatus(Struct, frozen=True, kw_only=True):
    """The shared store, as the replica sees it that reports."""

    up: bool
    """Whether it answers; if not, the rest of the report is of the moment before."""
    away_since: Time | None
    """Since when it does not."""
    disagreements: dict[str, Time]
    """Units on whose settings the replicas do not agree, and since when."""


class SourceStatus(PeerStatus, frozen=True, kw_only=True):
    """A source."""

    kind: ClassVar[Kind] = "source"

    directory: str | None
    """The directory of its export files, if it reads files."""
    up: bool
    """Whether the last poll succeeded."""
    held: bool
    """Whether it refuses until an operator acts."""
    since: Time | None
    """When the current state (up, held, or neither) began."""
    paused_since: Time | None
    """Since when polling waits for room in the spool."""
    silent: bool
    """Whether it has shown no new event for longer than max_silence."""
    started: Time | None
    """Where its coverage starts; null before its first poll."""
    last_fetched_timestamp: Time | None
    """The checkpoint: everything before it was read, or is a declared gap."""
    lag_seconds: float | None
    """Now, by the vendor's clock, minus the checkpoint."""
    poll_interval_seconds: float | None
    settle_seconds: float | None
    last_event_at: Time | None
    last_poll_at: Time | None
    last_error: str | None
    error_code: str | None
    """The short code of last_error."""
    gap_seconds: float
    """The total length of its gaps."""
    coverage: tuple[CoverageSpan, ...]
    """What was read in the last 7 days, and the gaps of the last 30 days."""
    late: tuple[LateFind, ...]
    """What was found late in the last 7 days."""
    unknown_actions: int
    """New events with an unrecognised action type, since the start of the service."""
    odd_times: int
    """New events whose time cannot be read or is implausible, since the start of the service."""
    dead_letters: int
    """Records that could not be parsed."""
    lateness: str | None
    """How late its events come, in a sentence."""
    suggested_settle: str | None
    suggested_overlap: str | None
    form_changed_at: Time | UnsetType = UNSET
    """When many known records were last shown with other content; left out if they never were."""
    form_changed_fields: tuple[str, ...] | UnsetType = UNSET
    """The fields that differed; left out likewise, and if the former records were gone."""


class FreshnessStatus(Struct, frozen=True, kw_only=True):
    """How old the events of a source were when the sink acknowledged them."""

    source: str
    p50_seconds: float
    """Half of them were not older."""
    p99_seconds: float
    """99 of a hundred were not older."""
    events: int
    """How many these figures are of: those of the hour up to the last one."""
    last_at: Time
    """When the last of them was acknowledged."""


class SinkStatus(PeerStatus, frozen=True, kw_only=True):
    """A sink."""

    kind: ClassVar[Kind] = "sink"

    proves: Proves | None
    """
    What its success proves: that an event is stored, that it was taken, or nothing; null if it is
    not configured any more.
    """
    sources: tuple[str, ...]
    """The sources that it receives."""
    exclude: tuple[str, ...] | UnsetType = UNSET
    """Globs of what it is not sent, over kind and verb and over actions; left out without any."""
    up: bool
    """Whether the last request succeeded."""
    held: bool
    """Whether it refuses until an operator acts."""
    since: Time | None
    """When the current state (up, held, or neither) began."""
    backlog_events: int
    """Events in the spool that it has yet to take."""
    oldest_undelivered_seconds: float
    """How long the oldest of them has waited."""
    dead_letters: int
    """Events that it will never accept."""
    delivered_per_minute: tuple[int, ...] | None
    """Of each of the last 60 minutes, oldest first; null without a running service."""
    last_delivered_at: Time | None
    last_error: str | None
    error_code: str | None
    """The short code of last_error."""
    freshness: tuple[FreshnessStatus, ...] = ()
    """By source, without backfills and replays; as of a minute ago without a running service."""
    linger_seconds: float | UnsetType = UNSET
    """
    How long events may wait for others that are sent with them, all being well; left out if that is
    less than ten seconds.
    """


AnyPeer = SourceStatus | SinkStatus


class SpoolStatus(Struct, frozen=True):
    """The spool."""

    bytes: int
    max_bytes: int

    @property
    def share(self) -> float:
        """How full it is: 1 is full."""
        return self.bytes / self.max_bytes


class EvidenceStatus(Struct, frozen=True, kw_only=True):
    """The evidence."""

    entries: int = 0
    """How many entries are sealed."""
    head: str | None = None
    """The newest head; null before the first seal."""
    sealed_at: Time | None = None
    taken_by: tuple[str, ...] = ()
    """The sinks that have taken the newest head."""
    untold_heads: int = 0
    """How many of the newest heads no sink has taken yet."""
    untold_since: Time | None = None
    """When the oldest of them was sealed."""
    broken: str | None = None
    """What is missing or was changed, until an operator explains it."""
    broken_since: Time | None = None
    failing: str | None = None
    """Why the last seal failed; null if it did not, and without a running service."""
    failing_since: Time | None = None


class Finding(Struct, frozen=True):
    """A problem: what is wrong, since when, and what to do."""

    level: Literal["action_required", "recovering"]
    """``recovering`` if it ends automatically."""
    kind: Literal["source", "sink", "spool", "instance"]
    name: str
    what: str
    """A sentence, as are effect and do."""
    since: Time | None = None
    effect: str = ""
    error: str | None = None
    """The error message of the source or sink."""
    do: str = ""
    command: str | None = None
    """For a shell."""
    code: str = ""
    """The kind of problem, in a word."""


class Report(Struct, frozen=True, kw_only=True):
    """The state of an instance."""

    version: str
    at: Time
    config: str | None
    """The configuration file; null if there is none."""
    sources: tuple[SourceStatus, ...]
    sinks: tuple[SinkStatus, ...]
    spool: SpoolStatus
    evidence: EvidenceStatus = EvidenceStatus()
    stuck: tuple[str, ...]
    """Loops of a running service that make no progress."""
    clock_ahead_seconds: dict[str, float]
    """How far our clock is ahead of that of each peer, negative if behind; not where they agree."""
    restart_command: str | None
    """How to restart the service, for a shell; null where that is not known."""
    replicas: tuple[ReplicaStatus, ...] | UnsetType = UNSET
    """The replicas on the shared store; left out without one."""
    unheld: dict[str, Time | None] | UnsetType = UNSET
    """Units that no live replica holds, and since when, if known; left out likewise."""
    store: StoreStatus | UnsetType = UNSET
    """The shared store; left out without one, and without a running service."""
    findings: tuple[Finding, ...]
    """The problems, worst first."""
