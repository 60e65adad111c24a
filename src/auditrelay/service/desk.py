"""
What a command asks of the running instance, and what the instance answers.

Requests and answers are values, one JSON object each, so that anything can carry them: a socket, a
pipe, a table. A request is answered with its progress, any number of times, and then once with its
result or with the failure.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Final, Protocol, Self

import msgspec
from msgspec import Meta, Struct

from auditrelay import __version__
from auditrelay.collect.backfill import BackfillProgress
from auditrelay.collect.verify import Shown, VerifyProgress, VerifyReport
from auditrelay.errors import ConfigError, RelayError, StateError, exit_status
from auditrelay.events.decode import NOT_DECODED
from auditrelay.store import LetterOf

Instant = Annotated[datetime, Meta(tz=True)]

DeadLetterId = Annotated[int, Meta(ge=1, le=2**63 - 1)]

# -- requests --------------------------------------------------------------------------------------


class Backfill(Struct, frozen=True, kw_only=True, tag_field="do", tag="backfill"):
    """
    Read *source* from *start* to *end* (None: up to what has settled), and forward what is new.

    With *sinks* send everything to these alone. A *dry_run* only counts. *concurrency* slices are
    read at a time.
    """

    source: str
    start: Instant
    end: Instant | None
    sinks: tuple[str, ...]
    dry_run: bool
    newest_first: bool
    concurrency: Annotated[int, Meta(ge=1)]


class Verify(Struct, frozen=True, kw_only=True, tag_field="do", tag="verify"):
    """
    Compare *source* from *start* to *end* (None: up to its checkpoint) with what was forwarded.

    *repair* forwards what is missing; *at_sink* asks the sinks themselves, where they can search.
    If it is to be *listed*, what the source shows is passed on as progress, also where nothing was
    read yet.
    """

    source: str
    start: Instant
    end: Instant | None
    repair: bool
    at_sink: bool
    listed: bool = False


class Replay(Struct, frozen=True, tag_field="do", tag="replay"):
    """Send the dead letters *ids* again, each to its own sink; *of* says which were meant."""

    ids: tuple[DeadLetterId, ...]
    of: dict[DeadLetterId, LetterOf] = {}


class Drop(Struct, frozen=True, tag_field="do", tag="drop"):
    """Discard the dead letters *ids*; *of* says which were meant."""

    ids: tuple[DeadLetterId, ...]
    of: dict[DeadLetterId, LetterOf] = {}


class Forget(Struct, frozen=True, tag_field="do", tag="forget"):
    """Delete the state of the orphaned source or sink *name*; *yes* confirms that data is lost."""

    name: str
    yes: bool


class Reopen(Struct, frozen=True, kw_only=True, tag_field="do", tag="reopen"):
    """Take back the gaps of *source* that are declared from *start* to *end*; *yes* confirms it."""

    source: str
    start: Instant
    end: Instant
    yes: bool


class Restored(Struct, frozen=True, tag_field="do", tag="restored"):
    """Tell, in the evidence, that the operator has restored the state, and why."""

    reason: Annotated[str, Meta(min_length=1, max_length=1000)]


Request = Backfill | Verify | Replay | Drop | Forget | Reopen | Restored

# -- answers ---------------------------------------------------------------------------------------


class Note(Struct, frozen=True, tag=True):
    """Something that the operator should know before the work begins."""

    text: str


Progress = Note | BackfillProgress | VerifyProgress | Shown

OnProgress = Callable[[Progress], Awaitable[None]]


class Backfilled(Struct, frozen=True, tag=True):
    """A backfill has read its whole range, or a dry run has counted it."""

    total: BackfillProgress


class Verified(Struct, frozen=True, tag=True):
    """A comparison has ended."""

    report: VerifyReport


class Replayed(Struct, frozen=True, tag=True):
    """
    The dead letters *ids* are in the spool again; others were being replayed already.

    Those in *excluded* are not sent to their sink, as its ``exclude`` says: they stay.
    """

    ids: tuple[int, ...]
    excluded: tuple[int, ...] = ()


class Dropped(Struct, frozen=True, tag=True):
    """The dead letters *ids* are discarded; others were being replayed."""

    ids: tuple[int, ...]


class Forgotten(Struct, frozen=True, tag=True):
    """The state of *name* is deleted."""

    name: str


class ReopenedGap(Struct, frozen=True):
    """A gap, or a part of one, that was taken back; *reason* is why it had been declared."""

    start: Instant
    end: Instant
    reason: str


class Reopened(Struct, frozen=True, tag=True):
    """The *gaps* are taken back: the next poll asks for them, but for what is *expired* by then."""

    gaps: tuple[ReopenedGap, ...]
    expired: Instant | None
    """The vendor keeps nothing from before: that will be declared as a gap again."""


class Recorded(Struct, frozen=True, tag=True):
    """The fact is durable; the next seal takes it."""


Result = Backfilled | Verified | Replayed | Dropped | Forgotten | Reopened | Recorded


class Failure(Struct, frozen=True, tag=True):
    """The request failed: a *message* for the operator, and the exit *status* of the command."""

    message: str
    status: int

    @classmethod
    def of(cls, error: RelayError) -> Self:
        """Return the answer that says *error*."""
        # A name of a file may be in it that is no Unicode.
        message = str(error).encode(errors="backslashreplace").decode()
        return cls(message, exit_status(error))

    def error(self) -> RelayError:
        """Return the error that the command raises."""
        return {2: ConfigError, 3: StateError}.get(self.status, RelayError)(self.message)


Answer = Progress | Result | Failure

# -- the desk --------------------------------------------------------------------------------------

Handle = Callable[[Request, OnProgress, int | None], Awaitable[Result]]
"""Does a request, which the user with that id has made; None if the system does not tell."""


class NotServed(StateError):
    """No running replica serves what a request is about."""


class Desk(Protocol):
    """Carries requests to the running instance, and its answers back."""

    async def ask(self, request: Request, on_progress: OnProgress) -> Result:
        """
        Return the result of *request*, once it has one; report its progress until then.

        If the caller is cancelled, so is the work; what is done is kept. Raises the error of the
        instance (ConfigError, StateError, RelayError), StateError if it cannot be asked, and
        RelayError if it ends before the request is done.
        """

    async def serve(self, handle: Handle) -> None:
        """
        Answer requests by *handle*, concurrently, until cancelled.

        Requests in progress then get an error that says so. What *handle* raises is the answer if
        it is a RelayError; any other exception is a bug, and is raised here.
        """


# -- as JSON ---------------------------------------------------------------------------------------

_REQUESTS: Final = msgspec.json.Decoder(Request)
_ANSWERS: Final = msgspec.json.Decoder(Answer)
VERSIONS: Final = (
    "it and the command are of different versions; restart the service, or use the command that "
    "came with it"
)


def encode(message: Request | Answer) -> bytes:
    """Return *message* as JSON, without a line feed."""
    return msgspec.json.encode(message)


def decode_request(text: bytes) -> Request:
    """Return the request that *text* is; raise ConfigError if it is none of this version."""
    try:
        request: Request = _REQUESTS.decode(text)
    except NOT_DECODED as error:
        raise ConfigError(
            f"the running service (auditrelay {__version__}) does not support this request: "
            f"{error}; {VERSIONS}"
        ) from error
    return request


def decode_answer(text: bytes) -> Answer:
    """Return the answer that *text* is; raise RelayError if it is none of this version."""
    try:
        answer: Answer = _ANSWERS.decode(text)
    except NOT_DECODED as error:
        raise RelayError(
            f"the running service gives an answer that this command (auditrelay {__version__}) "
            f"does not understand: {error}; {VERSIONS}"
        ) from error
    return answer
