"""
The answer of a token endpoint: a token, or why there is none (RFC 6749, and what servers do).

An answer is judged as anything from outside is: it may be a page of HTML with status 200, have no
token, one that cannot be sent, or a life that makes no sense.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from auditrelay.errors import Refused, Rejected, Retryable
from auditrelay.http.headers import retry_after
from auditrelay.http.replies import Reply, failure, misshapen
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.scrubber import scrub, scrubber

MAX_REPLY_BYTES: Final = 256 * 1024
"""Of a token endpoint's reply: with the longest token it has a few kB."""

_MAX_TOKEN: Final = 16 * 1024
"""Characters of a token: more no server accepts in a header."""

_REFUSALS: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "access_denied",
    }
)
"""Codes that mean that an operator must act (RFC 6749, 5.2 and 4.1.2.1)."""

_HINTS: Final = {
    "invalid_client": "check the client's id and secret, and whether the secret has expired",
    "invalid_scope": "the client may not ask for this scope",
    "unauthorized_client": "the client may not use this grant; check its settings at the vendor",
    "access_denied": "the client is not authorised for this API; check its settings at the vendor",
}

_WRONG_ADDRESS: Final = "check that this is the address of a token endpoint"


@dataclass(frozen=True, slots=True)
class Granted:
    """A token, and for how many seconds it holds, if that is known."""

    token: Secret
    life: float | None
    rotates: bool = False
    """Whether another refresh token came with it, in place of ours."""


def read_grant(reply: Reply, *, hint: str, refresh_token: Secret | None = None) -> Granted:
    """
    Return the token in *reply*.

    *hint* is what the operator should check where the server's code does not say it.
    *refresh_token* is the one that was sent. Raises Refused if an operator must act, and Retryable
    for anything else.
    """
    answer = reply.object() or {}
    if not 200 <= reply.status < 300:
        raise _failure(reply, answer, hint)
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        if _code(answer) in _REFUSALS:
            raise _refused(reply, answer, hint)
        raise misshapen(reply, "it has no access_token")
    # Known to the scrubber before anything else is done with it.
    scrubber.learn_renewed(token, whole=True)
    if len(token) > _MAX_TOKEN:
        raise misshapen(reply, f"its access_token is longer than {_MAX_TOKEN:,} characters")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise misshapen(reply, "its access_token has a character that no header may have")
    return Granted(
        Secret(token), seconds(answer.get("expires_in")), _rotates(answer, refresh_token)
    )


def seconds(value: object) -> float | None:
    """Return the seconds that a number such as ``expires_in`` says, None if it makes no sense."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        life = float(value[:20] if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return life if math.isfinite(life) and life > 0 else None


def _rotates(answer: dict[str, Any], sent: Secret | None) -> bool:
    other = answer.get("refresh_token")
    if not isinstance(other, str) or not other:
        return False
    scrubber.learn_renewed(other, whole=True)  # some send one with every grant
    return sent is not None and other != sent.reveal()


def _failure(reply: Reply, answer: dict[str, Any], hint: str) -> Refused | Retryable:
    """Return the error for a *reply* that is no success."""
    refused = _code(answer) in _REFUSALS
    if reply.status == 400 and refused:
        return _refused(reply, answer, hint)
    words = _words(answer)
    error = failure(reply, message=words, hint=_hint(answer, hint) if refused else "")
    if isinstance(error, Refused):
        error.of_request = False  # no request has a token then
    if not isinstance(error, Rejected):
        return error
    if reply.status != 400:
        return Refused(f"{error}; {_WRONG_ADDRESS}", status=error.status)
    asked = retry_after(reply.headers, reply.at)
    return Retryable(str(error), reason=error.reason, retry_after=asked, sent=True)


def _refused(reply: Reply, answer: dict[str, Any], hint: str) -> Refused:
    words = scrub(_words(answer), 200)
    return Refused(
        f"{reply.status} from {reply.where}: {words}; {_hint(answer, hint)}", status=reply.status
    )


def _hint(answer: dict[str, Any], hint: str) -> str:
    return _HINTS.get(_code(answer)) or hint


def _code(answer: dict[str, Any]) -> str:
    """Return the code of RFC 6749 in *answer*, empty if there is none."""
    code = answer.get("error")
    return code if isinstance(code, str) else ""


def _words(answer: dict[str, Any]) -> str:
    """Return what the server says in a refusal; the code of RFC 6749 in brackets."""
    code = _code(answer)
    # The latter two where a vendor's own form has them (OneLogin).
    places = (answer, answer.get("error"), answer.get("status"))
    for place in places:
        if isinstance(place, dict):
            for key in ("error_description", "message", "reason"):
                text = place.get(key)
                if isinstance(text, str) and text:
                    return f"{text} ({code})" if code and code != text else text
    return code
