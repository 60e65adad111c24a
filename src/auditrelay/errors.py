"""
The errors, as a tree by the caller's next action.

* RelayError
    - ConfigError   exit: the operator must edit the configuration
    - StateError    exit: the state is damaged, newer than this program, or unreadable
        - Locked    exit, or ask the running instance that has locked the state
    - NotSealed     go on, and seal the evidence later
        - EvidenceBroken  go on in a new log of it
    - StoreFull     pause collecting, keep delivering, try again when there is room
    - Fenced        drop the lease and all that was read under it: another replica has it
    - RolledBack    drop all leases and take others: the database has lost what was committed
    - Retryable     wait (``retry_after`` seconds if known), then retry the same call
    - Refused       hold this source or sink: its credentials, rights or address are wrong
        - Unanswered  the same: it leaves open what became of what was sent
        - RequestRefused  and Retryable: read less at a time, if a source answers other requests
    - Rejected      halve the request; dead-letter its event if it is only one
        - TooLarge  the same, because of its size
    - WalkBroken    read the window in smaller parts
    - PeerBug       hold this source or sink: our code for it has a bug
"""

from typing import Any


class RelayError(Exception):
    """An error that auditrelay expects; every other exception is a bug, see ``supervisor``."""


def code_of(error: RelayError) -> str:
    """Return the short code of *error*: its reason, the status of a refusal, or its kind."""
    reason = getattr(error, "reason", None)
    status = getattr(error, "status", None)
    if isinstance(reason, str):
        return reason
    if isinstance(error, StoreFull):
        return "store_full"
    return "refused" if status is None else f"status_{status}"


def exit_status(error: RelayError) -> int:
    """Return the exit status of a command that fails with *error*."""
    if isinstance(error, ConfigError):
        return 2
    return 3 if isinstance(error, StateError) else 1


def first_of(group: BaseExceptionGroup[BaseException]) -> RelayError:
    """Return the first error of a task *group*; raise the group itself if it includes a bug."""
    relay, bugs = group.split(RelayError)
    if bugs is not None or relay is None:
        raise group
    error = relay.exceptions[0]
    return first_of(error) if isinstance(error, BaseExceptionGroup) else error


class ConfigError(RelayError):
    """The configuration is wrong. *problems* has one sentence for each thing to fix."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateError(RelayError):
    """The state directory cannot be used; nothing in it was changed."""


class Locked(StateError):
    """Another instance has locked the state."""


class LeaseLost(StateError):
    """What is written for a source or sink is refused: this instance works for it no longer."""


class Fenced(LeaseLost):
    """
    Another replica has been given the lease, so nothing was written: only PostgreSQL has replicas.

    What carries the lease drops what it has read under it. It does not look for another one.
    """


class RolledBack(LeaseLost):
    """
    The database is at an earlier state than one that it had acknowledged; nothing was written.

    That is what a failover does to a standby that was not synchronous. All that was read or written
    under any lease may be gone, so this replica drops every lease and takes others.
    """


class NotSealed(RelayError):
    """No entries can be made of what waits to be sealed; it goes on waiting."""


class EvidenceBroken(NotSealed):
    """The entries of the evidence do not give the newest head: its log cannot be continued."""


class StoreFull(RelayError):
    """The disk is full, or the spool has reached ``spool.max_bytes``."""


class Retryable(RelayError):
    """
    The call failed for now; the same call may succeed later.

    *reason* is a short code for metrics (``timeout``, ``connect``, ``reset``, ``status_429``...).
    *retry_after* is the wait in seconds that the peer asked for. *sent* is true when the request
    may have reached the peer, so that a retry may store its events twice. *while_sending* is true
    when it failed before the whole request was sent: it may be too large for something in between.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        retry_after: float | None = None,
        sent: bool = False,
        while_sending: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        self.sent = sent
        self.while_sending = while_sending


class Refused(RelayError):
    """
    The peer refuses until an operator acts. No event is dropped; it is retried slowly.

    *status* is the HTTP status, or None for a refusal of another kind. *sent* is true when the
    peer may have stored the events all the same. *of_request* is true when it may be this request
    alone that is refused; by a sink, when that is not said in the words of the product.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        sent: bool = False,
        of_request: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.sent = sent
        self.of_request = of_request

    @property
    def is_success(self) -> bool:
        """Whether it is a success that proves nothing, and no page of something in between."""
        return self.status is not None and 200 <= self.status < 300 and not self.of_request


class RequestRefused(Retryable, Refused):
    """
    A source refuses this request, and perhaps no other one.

    It is treated as any failure that may be due to one record or to the length of a window, and
    holds the source if that answers no other request. *reason* and *status* are as others have
    them.
    """

    def __init__(self, message: str, *, reason: str, status: int | None = None) -> None:
        super().__init__(message, reason=reason, sent=True)
        self.status = status
        self.of_request = True


class Unanswered(Refused):
    """The sink never says whether it stores what it is sent; *reason* as other errors have it."""

    reason = "unanswered"


class Rejected(RelayError):
    """
    The peer will never accept this request as it is.

    *status* is the HTTP status and *reason* a short code for metrics and dead letters.
    """

    def __init__(self, message: str, *, reason: str, status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class TooLarge(Rejected):
    """The peer will never accept a request of this size."""


class WalkBroken(RelayError):
    """
    A walk ended before it had read the whole window.

    *reason* is a short code: ``repeated_page``, ``no_progress``, ``over_budget``,
    ``reply_too_large``, ``cursor_missing``... *window* is the part that cannot be read, once it is
    too short to be cut. *shown* is what the walk had shown by then, if it is known. *refused* is
    true when a page was refused that the one before it leads to.
    """

    def __init__(self, message: str, *, reason: str, refused: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.refused = refused
        self.window: Any = None  # an Interval, which this module may not import
        self.shown: Any = None  # a collect.parts.Shown, likewise


class PeerBug(RelayError):
    """
    Our code for one source or sink, *peer*, raised an unforeseen exception: it has a bug.

    It holds that peer, and nothing is dropped; it is retried ever less often. A source that fails
    at some records alone goes on behind them (:mod:`auditrelay.collect.unreadable`). Only a
    supervisor (:mod:`auditrelay.supervisor`) raises it, from the exception itself. *crossing* is
    what was asked of the peer (``walk``, ``read``, ``render``, ``send``...), *reason* the short
    code that other errors have too. *sent* is true when a sink may have stored the events all the
    same.
    """

    reason = "bug"

    def __init__(self, message: str, *, peer: str, crossing: str) -> None:
        super().__init__(message)
        self.peer = peer
        self.crossing = crossing

    def again(self) -> "PeerBug":
        """Return an equal error, to be raised again."""
        return PeerBug(str(self), peer=self.peer, crossing=self.crossing)

    @property
    def sent(self) -> bool:
        """Whether a sink may have stored what it was given: sending may have broken anywhere."""
        return self.crossing == "send"


_NOT_ITS_SIZE = frozenset({"connect", "tls", "rate_limited", "status_429"})
"""Failures that a smaller request meets just as well."""


def may_be_due_to_size(error: WalkBroken | Retryable | PeerBug) -> bool:
    """Return whether a smaller request may succeed where *error* was raised."""
    if isinstance(error, Retryable):
        return error.retry_after is None and error.reason not in _NOT_ITS_SIZE
    return True
