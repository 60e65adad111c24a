"""
What an answer of a described receiver means for the batch that it is for. No request is made here.

Strict: a success is what the description calls one in positive words, and what it says of others
comes before the rules of every sink. What stays open is a possible duplicate, never a delivery.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from auditrelay.descriptions.places import find, parse_path
from auditrelay.descriptions.receiver.model import Do, Items, On, ReceiverFile, Wait
from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.headers import reset_after, retry_after
from auditrelay.http.replies import Reply, is_web_page
from auditrelay.sinks import Counts, Rejection, Verdict
from auditrelay.sinks._requests import (
    clean,
    error_for,
    is_proof,
    unproven,
)

_WORDS: Final = 4096
"""Bytes of an answer that are compared with words."""

_MESSAGES: Final = tuple(
    find(parse_path(path))
    for path in (
        "message",
        "error.message",
        "error",
        "errorMessage",
        "detail",
        "reason",
        "errors.0.message",
        "errors.0",
        "details.message",
    )
)
"""Where receivers have what they say of a refusal; it is only shown."""


@dataclass(frozen=True, slots=True)
class Isolate:
    """
    Each event is to be sent alone, because the answer does not say which one is meant.

    *stored* is how many of them may be stored, and are counted as possible duplicates.
    """

    message: str
    status: int
    stored: int

    def rejection(self, index: int = 0) -> Rejection:
        """Return the rejection of the event *index*, which was sent alone, so it is meant."""
        return Rejection(index, "refused", self.message, self.status)


class Answer:
    """A reply, decoded once."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.is_json = False
        self.value: Any = None
        if reply.body.strip():
            try:
                self.value = reply.json()
            except ValueError:
                return
            self.is_json = True

    @property
    def message(self) -> str:
        """What it says, for people: without secrets, and bounded."""
        if self.is_json:
            if isinstance(self.value, str):
                return clean(self.value)
            texts = (found(self.value) for found in _MESSAGES)
            return clean(next((text for text in texts if isinstance(text, str)), ""))
        if is_web_page(self.reply):
            return ""
        return clean(self.reply.body[:_WORDS].decode("utf-8", "replace").strip())


class Where:
    """Values that must stand at paths of an answer, compared as JSON."""

    def __init__(self, where: Mapping[str, Sequence[str]]) -> None:
        self._where = [
            (find(parse_path(path)), frozenset(map(_canonical, values)))
            for path, values in where.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._where)

    def holds(self, answer: Answer) -> bool:
        """Return whether one of the values stands at each path of *answer*."""
        return (answer.is_json or not self._where) and all(
            _text_of(found(answer.value)) in values for found, values in self._where
        )


class Answers:
    """Judges the answers of one receiver."""

    def __init__(self, file: ReceiverFile) -> None:
        self._product = file.product
        self._success = file.success
        self._success_where = Where(file.success.where)
        self._warn = [find(path) for path in file.success.warn]
        self._items = None if file.items is None else _ItemList(file.items)
        self._count = None
        if file.count is not None:
            self._count = file.count
            self._refused = find(file.count.refused)
            self._why = None if file.count.message is None else find(file.count.message)
        self._on = [_Rule(on) for on in file.on]
        self._wait = file.wait
        self.deduplicates = file.key is not None

    def outcome(self, reply: Reply, uids: Sequence[str]) -> Verdict | Isolate:
        """
        Return what *reply* means for the events *uids* of a batch.

        Raises Retryable, Refused, Rejected or TooLarge if it took none; see :class:`sinks.Sink`.
        """
        answer = Answer(reply)
        if self._is_success(answer):
            return self._accepted(answer, uids)
        # Something before the receiver may send a page of its own: it proves nothing about events.
        for rule in () if is_web_page(reply) else self._on:
            if rule.fits(answer):
                return self._by_rule(rule.on, answer, uids)
        raise self.error(answer)

    def is_as_expected(self, reply: Reply, statuses: Iterable[int], where: Where) -> bool:
        """Return whether *reply* is the one that a check must get."""
        return (
            reply.status in statuses
            and not is_web_page(reply)
            and (not where or where.holds(Answer(reply)))
        )

    def error(self, answer: Answer) -> RelayError:
        """Return the error for *answer*, of which the description says nothing."""
        reply = answer.reply
        if 200 <= reply.status < 300:
            return unproven(reply, self._product)
        return error_for(reply, message=answer.message, wait=_asked(reply, self._wait))

    # -- a success

    def _is_success(self, answer: Answer) -> bool:
        """Return whether *answer* is a success. Raises Retryable if its body did not come."""
        reply, success = answer.reply, self._success
        if reply.status not in success.statuses or not is_proof(reply):
            return False
        if success.body == "any":
            return True
        if reply.unread is not None:
            if reply.unread.reason in ("timeout", "reset"):
                raise reply.unread
            return False
        if success.body == "empty":
            return not reply.body.strip()
        return answer.is_json and self._success_where.holds(answer)

    def _accepted(self, answer: Answer, uids: Sequence[str]) -> Verdict | Isolate:
        warnings = tuple(
            clean(text) for found in self._warn for text in _shown(found(answer.value))
        )
        if self._items is not None:
            verdict = self._items.verdict(answer, uids)
            if verdict is None:
                raise self.error(answer)
            return replace(verdict, warnings=warnings)
        if self._count is None:
            return Verdict(warnings=warnings)
        refused = self._refused(answer.value)
        if type(refused) is not int or not 0 <= refused <= len(uids):
            raise self.error(answer)
        if not refused:
            return Verdict(warnings=warnings)
        why = " ".join(_shown(self._why(answer.value))) if self._why is not None else ""
        message = clean(why) or f"{refused} of {len(uids)} were refused, without a reason"
        if self._count.then == "dead_letter_batch":
            return _all_rejected(message, answer.reply.status, uids)
        return Isolate(message, answer.reply.status, len(uids) - refused)

    # -- anything else

    def _by_rule(self, on: On, answer: Answer, uids: Sequence[str]) -> Verdict | Isolate:
        reply = answer.reply
        text = f"{reply.status} from {reply.where}"
        if message := answer.message:
            text = f"{text}: {message}"
        if on.hint:
            text = f"{text}; {on.hint}"
        stored = on.stored or ("unknown" if reply.status >= 500 else "nothing")
        wait = _asked(reply, self._wait)
        if stored == "before_index":
            index = _index(on, answer, len(uids))
            if index is not None:
                error = Retryable(text, reason=f"status_{reply.status}", retry_after=wait)
                return _from_index(on.do, index, uids, error, reply.status)
        sent = stored != "nothing"
        match on.do:
            case "retry":
                raise Retryable(text, reason=f"status_{reply.status}", retry_after=wait, sent=sent)
            case "hold":
                raise Refused(text, status=reply.status, sent=sent)
            case "split":
                kind = TooLarge if reply.status == 413 else Rejected
                raise kind(text, reason=f"status_{reply.status}", status=reply.status)
            case "reject":
                return _all_rejected(text, reply.status, uids)
        return Isolate(text, reply.status, len(uids) if sent else 0)


class _Rule:
    """A table ``[[on]]``."""

    def __init__(self, on: On) -> None:
        self.on = on
        self._where = Where(on.where)

    def fits(self, answer: Answer) -> bool:
        """Return whether *answer* is one that it speaks of."""
        on, reply = self.on, answer.reply
        if on.statuses and reply.status not in on.statuses:
            return False
        if self._where and not self._where.holds(answer):
            return False
        if not on.words:
            return True
        text = reply.body[:_WORDS].decode("utf-8", "replace").lower()
        return any(fnmatchcase(text, glob) for glob in on.words)


class _ItemList:
    """The table ``[items]``: a verdict for each event."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._list = find(items.at)
        self._uid = None if items.by == "order" else find(parse_path(items.by))
        self._verdict = find(items.verdict)
        self._message = None if items.message is None else find(items.message)
        self._ok, self._duplicate, self._retry = (
            frozenset(map(_canonical, values))
            for values in (items.ok, items.duplicate, items.retry)
        )

    def verdict(self, answer: Answer, uids: Sequence[str]) -> Verdict | None:
        """Return what the list of *answer* says of each event; None if it is no such list."""
        found = self._list(answer.value)
        if not isinstance(found, list) or len(found) > len(uids):
            return None
        elements = dict(enumerate(found))
        if self._uid is not None:
            places = {uid: place for place, uid in enumerate(uids)}
            named = [(places.get(self._uid(element)), element) for element in found]
            elements = {place: element for place, element in named if place is not None}
            if len(elements) < len(found):
                return None  # it speaks of events that it was not sent
        return self._of_each(elements, answer.reply, len(uids))

    def _of_each(self, elements: Mapping[int, Any], reply: Reply, count: int) -> Verdict:
        rejected: list[Rejection] = []
        again: list[int] = []
        duplicates = missing = 0
        for index in range(count):
            if index not in elements:
                missing += 1
                again.append(index)
                continue
            said = _text_of(self._verdict(elements[index]))
            if said in self._ok:
                continue
            if said in self._duplicate:
                duplicates += 1
            elif said in self._retry:
                again.append(index)
            else:
                why = self._message(elements[index]) if self._message is not None else None
                message = clean(" ".join(_shown(why)) or f"refused: {said}")
                rejected.append(Rejection(index, "refused", message, reply.status))
        reason = None
        if again:
            reason = Retryable(
                f"{reply.status} from {reply.where}: {len(again)} of {count} events are to be sent "
                "again",
                reason="some_later",
            )
        counts = Counts(possibly_stored=missing, duplicates=duplicates)
        return Verdict(tuple(rejected), tuple(again), reason, counts=counts)


def _from_index(do: Do, index: int, uids: Sequence[str], error: Retryable, status: int) -> Verdict:
    """Return the verdict on a batch of which the events before *index* are stored."""
    if do in ("split", "isolate", "reject"):
        bad = Rejection(index, "refused", str(error), status)
        return Verdict(rejected=(bad,), retry=tuple(range(index + 1, len(uids))))
    # Also where it is to be held: what is stored is settled, and the next request says the same.
    return Verdict(retry=tuple(range(index, len(uids))), retry_reason=error)


def _index(on: On, answer: Answer, count: int) -> int | None:
    found = None if on.index is None else find(on.index)(answer.value)
    return found if type(found) is int and 0 <= found < count else None


def _all_rejected(message: str, status: int, uids: Sequence[str]) -> Verdict:
    return Verdict(
        rejected=tuple(Rejection(index, "refused", message, status) for index in range(len(uids)))
    )


def _asked(reply: Reply, wait: Wait | None) -> float | None:
    """Return the seconds that *reply* asks for: in ``Retry-After``, or in the receiver's own."""
    asked = retry_after(reply.headers, reply.at)
    if asked is not None or wait is None:
        return asked
    return reset_after(reply.headers, wait.header, wait.unit, reply.at)


def _shown(value: Any) -> list[str]:
    """Return the texts in *value*, which may be a text or a list of some."""
    if isinstance(value, list):
        return [text for each in value[:3] for text in _shown(each)]
    if isinstance(value, dict):
        return [json.dumps(value)] if value else []
    return [str(value)] if isinstance(value, str | int | float) and value != "" else []


def _text_of(value: Any) -> str:
    """Return *value* as JSON, so that 1, true and "1" differ."""
    return json.dumps(value, sort_keys=True)


def _canonical(text: str) -> str:
    return _text_of(json.loads(text))
