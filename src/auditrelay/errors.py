"""
What can go wrong, named after what the caller does next.

* RelayError
    - ConfigError   stop: the operator must edit the configuration
    - StateError    stop: the state is damaged, newer than this program, or unreadable
        - Locked    the same, because another instance holds it; it may be asked instead
    - StoreFull     stop collecting, keep delivering, try again when there is room
    - Retryable     wait (``retry_after`` seconds if known), then repeat the same call
    - Refused       hold this source or sink: its credentials, rights or address are wrong
    - Rejected      this request can never be accepted: halve it, or put its one event aside
    - TooLarge      like Rejected, but only because of its size
    - WalkBroken    the walk proved nothing: cut the window in half in time, walk both halves
"""

from typing import Any


class RelayError(Exception):
    """Anything that auditrelay expects to go wrong; every other exception is a bug."""


def code_of(error: RelayError) -> str:
    """Return the short code of *error*: its reason, the status of a refusal, or what it is."""
    reason = getattr(error, "reason", None)
    status = getattr(error, "status", None)
    if isinstance(reason, str):
        return reason
    if isinstance(error, StoreFull):
        return "store_full"
    return "refused" if status is None else f"status_{status}"


def exit_status(error: RelayError) -> int:
    """Return the status that a command ends with because of *error*."""
    if isinstance(error, ConfigError):
        return 2
    return 3 if isinstance(error, StateError) else 1


def first_of(group: BaseExceptionGroup[BaseException]) -> RelayError:
    """Return the first error of a task *group*; a group with a bug in it is raised as it is."""
    relay, bugs = group.split(RelayError)
    if bugs is not None or relay is None:
        raise group
    error = relay.exceptions[0]
    return first_of(error) if isinstance(error, BaseExceptionGroup) else error


class ConfigError(RelayError):
    """The configuration is wrong. *problems* has one sentence for each thing to mend."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateError(RelayError):
    """The state directory cannot be used; nothing in it has been changed."""


class Locked(StateError):
    """Another instance holds the state."""


class StoreFull(RelayError):
    """There is no room: the disk is full, or the spool has reached ``spool.max_bytes``."""


class Retryable(RelayError):
    """
    The peer could not answer now; the same call may succeed later.

    *reason* is a short code for metrics (``timeout``, ``connect``, ``reset``, ``status_429``...).
    *retry_after* is how many seconds the peer asked for. *sent* is true when the request may have
    reached the peer, so that sending it again may store it twice.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        retry_after: float | None = None,
        sent: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        self.sent = sent


class Refused(RelayError):
    """
    The peer refuses until an operator acts. Nothing is dropped; it is tried again slowly.

    *status* is the HTTP status, or None where the refusal is of another kind. *sent* is true when
    the peer may hold what it was sent all the same.
    """

    def __init__(self, message: str, *, status: int | None = None, sent: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.sent = sent


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
    """The peer refuses the request because of its size."""


class WalkBroken(RelayError):
    """
    A walk ended without having shown the whole window.

    *reason* is a short code: ``repeated_page``, ``no_progress``, ``over_budget``,
    ``reply_too_large``, ``cursor_missing``... *window* is the part that cannot be read, once it
    is too fine to be halved.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.window: Any = None  # an Interval; errors know nobody else
