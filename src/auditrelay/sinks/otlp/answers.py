"""
What each answer of an OTLP receiver means for the records that were sent.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response. An answer is in the encoding that it
says itself. What is in neither is not the answer of a receiver, but for an empty body: of zero
bytes of protobuf, which is a full success, and with 204, which some receivers answer.
"""

from typing import Any, Final, NamedTuple, Self

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.replies import Reply
from auditrelay.sinks._requests import error_for, is_proof, part_of, unproven
from auditrelay.sinks.otlp.wire import fields

PRODUCT: Final = "a receiver of OTLP"

_TOO_LARGE: Final = "too large"
"""What a Collector answers, with 400, to a body that is too large, unpacked or not."""

_HINTS: Final = {
    401: "check headers, which identify us",
    403: "check headers, which identify us",
    404: "check endpoint: /v1/logs is added to it",
    405: "check endpoint: /v1/logs is added to it",
    415: "it does not read this encoding: check encoding",
}

_PASSED_ON: Final = (
    "a Collector answers so for what it sends to as well: look into its own log, and at its "
    "exporters"
)


class Accepted(NamedTuple):
    """A success: how many records were refused all the same, and what is said of it."""

    refused: int = 0
    message: str = ""


class Status(NamedTuple):
    """A failure in the words of the protocol, ``google.rpc.Status``."""

    code: int
    message: str


class Answer(NamedTuple):
    """An answer, decoded once."""

    reply: Reply
    accepted: Accepted | None = None
    """What a success says; None: it is not in the words of the protocol, or no success."""
    status: Status | None = None
    """What a failure says, likewise."""

    @classmethod
    def of(cls, reply: Reply, *, empty_is_success: bool) -> Self:
        """Read *reply*; *empty_is_success* says whether a 200 without a body is one."""
        if not 200 <= reply.status < 300:
            return cls(reply, status=_status(reply))
        if reply.unread is not None or not is_proof(reply):
            return cls(reply)
        if not reply.body:
            return cls(reply, Accepted() if empty_is_success or reply.status == 204 else None)
        return cls(reply, _accepted(reply))

    def error(self) -> RelayError:
        """Return the error that it means for the records, if it is no success."""
        reply = self.reply
        if reply.status < 300:
            # A connection that breaks may hold the next time.
            is_broken = reply.unread is not None and reply.unread.reason in ("timeout", "reset")
            return reply.unread if reply.unread and is_broken else unproven(reply, PRODUCT)
        error = error_for(reply, message=self._message())
        if isinstance(error, Rejected):
            if isinstance(error, TooLarge) or _TOO_LARGE not in self._message():
                return error
            return TooLarge(str(error), reason=error.reason, status=reply.status)
        # Of several receivers behind a Collector another one may have stored the records.
        is_own = self.status is not None
        hints = _HINTS.get(reply.status), _PASSED_ON if is_own else None
        text = "; ".join(filter(None, (str(error), *hints)))
        if isinstance(error, Refused):
            return Refused(
                text,
                status=error.status,
                sent=error.sent or is_own,
                of_request=error.of_request,
            )
        assert isinstance(error, Retryable)  # noqa: S101  # for the type checker: no other is left
        return Retryable(
            text, reason=error.reason, retry_after=error.retry_after, sent=error.sent or is_own
        )

    def _message(self) -> str:
        """Return what the answer says in words."""
        if self.status is not None:
            return self.status.message
        if _kind(self.reply).startswith("text/plain"):
            return self.reply.body[:1000].decode("utf-8", "replace")
        return ""


def _kind(reply: Reply) -> str:
    """Return the content type that *reply* says it has."""
    kind: str = reply.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower()


def _is_json(reply: Reply) -> bool:
    return "json" in _kind(reply) or reply.body.lstrip()[:1] == b"{"


def _accepted(reply: Reply) -> Accepted | None:
    """Return what the body of a success says; None if it is not one."""
    if _is_json(reply):
        answer = reply.object()
        if answer is None or (answer and "partialSuccess" not in answer):
            return None
        partial = answer.get("partialSuccess")
        if partial is None:
            return Accepted()
        message = part_of(partial, str, "errorMessage") or ""
        refused = (
            _integer(partial.get("rejectedLogRecords", 0)) if isinstance(partial, dict) else None
        )
        return None if refused is None else Accepted(refused, message)
    try:
        return _accepted_in_protobuf(reply)
    except ValueError:
        return None


def _accepted_in_protobuf(reply: Reply) -> Accepted:
    """Return what the body says. Raises ValueError if it is no answer of the protocol."""
    accepted = Accepted()
    # Later versions may say more; something else that looks like protobuf by chance says less.
    is_named = _kind(reply) == "application/x-protobuf"
    for number, partial in fields(reply.body):
        if number != 1:
            if not is_named:
                raise ValueError("an unknown field")
            continue
        for part, value in fields(_message_in(partial)):
            if part == 1 and isinstance(value, int):
                accepted = accepted._replace(refused=_signed(value))
            elif part == 2:
                accepted = accepted._replace(message=_message_in(value).decode("utf-8"))
            elif not is_named or part == 1:
                raise ValueError("an unknown field")
    return accepted


def _status(reply: Reply) -> Status | None:
    """Return what the body of a failure says; None if it is not a ``Status``."""
    if not reply.body:
        return None
    if _is_json(reply):
        answer = reply.object() or {}
        code, message = _integer(answer.get("code", 0)), answer.get("message", "")
        known = {"code", "message", "details"}.issuperset(answer) and bool(answer)
        return (
            Status(code, message)
            if known and code is not None and isinstance(message, str)
            else None
        )
    try:
        return _status_in_protobuf(reply.body)
    except ValueError:
        return None


def _status_in_protobuf(body: bytes) -> Status:
    status = Status(0, "")
    for number, value in fields(body):
        if number == 1 and isinstance(value, int):
            status = status._replace(code=value)
        elif number == 2:
            status = status._replace(message=_message_in(value).decode("utf-8"))
        elif number != 3:
            raise ValueError("an unknown field")
    return status


def _message_in(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number in the place of a text or a message")  # noqa: TRY004  # as of fields
    return value


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _integer(value: Any) -> int | None:
    """Return a whole number in JSON, which may be a text; None if it is none."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
