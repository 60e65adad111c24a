"""What each answer of the Logs Ingestion API means for the rows that were sent."""

from typing import Final, NamedTuple, Self

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.replies import Reply
from auditrelay.sinks._requests import error_for, foreign, part_of, unproven

PRODUCT: Final = "the Logs Ingestion API of Azure"

_TIME_RANGE: Final = "RecordsTimeRangeIsMoreThan30Minutes"
"""The code for rows that are too far apart, in a table of the auxiliary plan."""

_ABORTED: Final = "ReadyBody_ClientConnectionAbort"
"""The code for a body that was not read to its end, as one that is too large."""

_HINTS: Final = {
    401: "check cloud, which the token is for, and client_id",
    403: (
        "give the application or identity the role Monitoring Metrics Publisher on the data "
        "collection rule; that takes up to 30 minutes to have an effect"
    ),
    404: "check endpoint, rule_id and stream: all are of one rule, in its region",
}


class Answer(NamedTuple):
    """An answer, decoded once."""

    reply: Reply
    request_id: str
    """What Azure finds the request by."""
    code: str = ""
    """Azure's own code in a refusal."""
    message: str = ""
    is_own: bool = False
    """Whether a refusal is Azure's, and not that of something in between."""

    @classmethod
    def of(cls, reply: Reply, request_id: str) -> Self:
        """Read *reply*; a success has nothing to be read."""
        if 200 <= reply.status < 300:
            return cls(reply, request_id)
        header = reply.headers.get("x-ms-error-code", "")
        answer = reply.object()
        return cls(
            reply,
            request_id,
            part_of(answer, str, "error", "code") or header,
            part_of(answer, str, "error", "message") or "",
            bool(header) or part_of(answer, dict, "error") is not None,
        )

    @property
    def is_taken(self) -> bool:
        """
        Whether the rows were taken. Azure answers 204; what becomes of them it never says.

        A 200 is the same if it is empty: where there are words, something else has answered.
        """
        reply = self.reply
        return reply.status in (200, 204) and reply.unread is None and not reply.body.strip()

    @property
    def is_of_times(self) -> bool:
        """Whether rows are refused for being too far apart."""
        return self.code == _TIME_RANGE

    def error(self) -> RelayError:
        """Return the error that a refusal means for the rows: all of them, or none."""
        reply = self.reply
        if reply.status < 300:
            return unproven(reply, PRODUCT)
        error = error_for(
            reply,
            message=": ".join(filter(None, (self.code, self.message))),
            not_stored=self.is_own and reply.status < 500,
        )
        if self.code == _ABORTED:
            return Retryable(str(error), reason="aborted", while_sending=True)
        if isinstance(error, TooLarge):
            return error
        if isinstance(error, Rejected):
            return self._named(error) if self.is_own else foreign(error, PRODUCT)
        if isinstance(error, Refused) and reply.status in _HINTS:
            hint = f"{error}; {_HINTS[reply.status]}"
            return Refused(
                self._with_id(hint),
                status=reply.status,
                sent=error.sent,
                of_request=error.of_request,
            )
        return error

    def _named(self, error: Rejected) -> Rejected:
        text = self._with_id(str(error))
        return Rejected(text, reason=error.reason, status=error.status)

    def _with_id(self, text: str) -> str:
        return f"{text} (x-ms-client-request-id {self.request_id})"
