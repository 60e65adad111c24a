"""What an answer means: successes in positive words, then the description's rules, then ours."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.sinks.described.receivers import file_of, reply

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.replies import Reply
from auditrelay.sinks import Verdict
from auditrelay.sinks.described.answers import Answers, Isolate

UIDS = ["a", "b", "c"]


def answers(folder: Path, **parts: str) -> Answers:
    return Answers(file_of(folder, **parts))


def raised(of: Answers, to: Reply) -> RelayError:
    with pytest.raises(RelayError) as caught:
        of.outcome(to, UIDS)
    return caught.value


# --- a success


@pytest.mark.parametrize("body", ['{"ok": true}', '{"ok":true,"more":[1]}', '\n {"ok" : true}'])
def test_what_is_described_is_a_success(body: str, tmp_path: Path) -> None:
    assert answers(tmp_path).outcome(reply(200, body), UIDS) == Verdict()


@pytest.mark.parametrize(
    "to",
    [
        reply(200, "{}"),
        reply(200, '{"ok": 1}'),
        reply(200, '{"ok": "true"}'),
        reply(200, '{"ok": [true]}'),
        reply(200, '{"Ok": true}'),
        reply(200, "[true]"),
        reply(200, ""),
        reply(200, "ok"),
        reply(201, '{"ok": true}'),
        reply(204),
        reply(200, "<html>ok</html>"),
        reply(200, '{"ok": true}', {"content-type": "text/html"}),
    ],
)
def test_no_other_words_are_a_success(to: Reply, tmp_path: Path) -> None:
    error = raised(answers(tmp_path), to)
    assert isinstance(error, Refused)
    assert error.sent
    assert "the address answers but is not Globex" in str(error)


SUCCESS = "[success]\nstatuses = [202, 204]\nbody = {}\n"


@pytest.mark.parametrize(
    ("body", "status", "content", "is_success"),
    [
        ('"any"', 202, "", True),
        ('"any"', 202, "thanks", True),
        ('"any"', 204, "", True),
        ('"any"', 200, "", False),
        ('"any"', 202, "<!DOCTYPE html>", False),
        ('"empty"', 204, "", True),
        ('"empty"', 204, " \r\n", True),
        ('"empty"', 202, "{}", False),
        ('"json"', 202, "{}", True),
        ('"json"', 202, "null", True),
        ('"json"', 202, "", False),
    ],
)
def test_the_body_of_a_success_is_as_described(
    body: str, status: int, content: str, *, is_success: bool, tmp_path: Path
) -> None:
    of = answers(tmp_path, success=SUCCESS.format(body))
    to = reply(status, content, {"content-type": "text/plain"})
    if is_success:
        assert of.outcome(to, UIDS) == Verdict()
    else:
        assert isinstance(raised(of, to), Refused)


@pytest.mark.parametrize(
    ("body", "is_done"), [('"any"', True), ('"empty"', False), ('"json"', False)]
)
def test_a_body_that_did_not_come_is_needed_or_not(
    body: str, *, is_done: bool, tmp_path: Path
) -> None:
    of = answers(tmp_path, success=SUCCESS.format(body))
    to = replace(reply(202), unread=Retryable("cut", reason="reset", sent=True))
    if is_done:
        assert of.outcome(to, UIDS) == Verdict()
    else:
        error = raised(of, to)
        assert isinstance(error, Retryable)
        assert error.sent


def test_a_receiver_that_knows_events_again_is_held_for_it_like_any(tmp_path: Path) -> None:
    error = raised(answers(tmp_path, key='[key]\npath = "id"\n'), reply(200, "{}"))
    assert isinstance(error, Refused)
    assert error.sent


def test_warnings_of_a_success_are_shown(tmp_path: Path) -> None:
    success = '[success]\nstatuses = [200]\nbody = "json"\nwarn = ["warnings"]\n'
    verdict = answers(tmp_path, success=success).outcome(
        reply(200, '{"warnings": ["the plan ends soon", {"x": 1}]}'), UIDS
    )
    assert isinstance(verdict, Verdict)
    assert verdict.warnings == ("the plan ends soon", '{"x": 1}')


# --- a verdict for each event


ITEMS = """
[items]
at = "result.rows"
by = {by}
verdict = "state"
ok = ['"ok"', "1"]
duplicate = ['"known"']
retry = ['"later"']
message = "why"
"""
KEY = '[key]\npath = "id"\n'
OK: dict[str, Any] = {"state": "ok"}


def rows(*found: Any) -> Reply:
    return reply(200, json.dumps({"ok": True, "result": {"rows": found}}))


def test_each_event_has_the_verdict_at_its_place(tmp_path: Path) -> None:
    of = answers(tmp_path, items=ITEMS.format(by='"order"'), key=KEY)
    verdict = of.outcome(rows(OK, {"state": "bad", "why": "no time"}, {"state": "later"}), UIDS)
    assert isinstance(verdict, Verdict)
    [rejected] = verdict.rejected
    assert (rejected.index, rejected.reason, rejected.message) == (1, "refused", "no time")
    assert verdict.retry == (2,)
    assert verdict.retry_reason is not None
    assert not verdict.counts.possibly_stored


def test_a_value_is_compared_with_its_type(tmp_path: Path) -> None:
    of = answers(tmp_path, items=ITEMS.format(by='"order"'), key=KEY)
    verdict = of.outcome(rows({"state": 1}, {"state": True}, {"state": "1"}), UIDS)
    assert isinstance(verdict, Verdict)
    assert [each.index for each in verdict.rejected] == [1, 2]


def test_what_is_not_in_the_list_is_sent_again_and_may_be_stored(tmp_path: Path) -> None:
    of = answers(tmp_path, items=ITEMS.format(by='"order"'), key=KEY)
    verdict = of.outcome(rows(OK, {"state": "known"}), UIDS)
    assert isinstance(verdict, Verdict)
    assert verdict.retry == (2,)
    assert (verdict.counts.possibly_stored, verdict.counts.duplicates) == (1, 1)


def test_elements_are_found_by_the_uid(tmp_path: Path) -> None:
    of = answers(tmp_path, items=ITEMS.format(by='"id"'), key=KEY)
    found = [{"id": "c", "state": "bad"}, {"id": "a", "state": "ok"}]
    verdict = of.outcome(rows(*found), UIDS)
    assert isinstance(verdict, Verdict)
    assert [each.index for each in verdict.rejected] == [2]
    assert verdict.retry == (1,)


@pytest.mark.parametrize(
    "to",
    [
        reply(200, '{"ok": true}'),
        reply(200, '{"ok": true, "result": {"rows": {}}}'),
        rows(OK, OK, OK, OK),
    ],
)
def test_a_list_that_is_none_of_this_batch_proves_nothing(to: Reply, tmp_path: Path) -> None:
    of = answers(tmp_path, items=ITEMS.format(by='"order"'), key=KEY)
    assert isinstance(raised(of, to), Refused)
    by_uid = answers(tmp_path, items=ITEMS.format(by='"id"'), key=KEY)
    assert isinstance(raised(by_uid, rows({"id": "x", "state": "ok"})), Refused)


# --- a number of those that were refused


COUNT = '[count]\nrefused = "failed"\nmessage = "errors.0.text"\n'


def counted(failed: Any, text: str = "no time") -> Reply:
    return reply(200, json.dumps({"ok": True, "failed": failed, "errors": [{"text": text}]}))


def test_a_number_of_refusals_has_each_event_sent_alone(tmp_path: Path) -> None:
    of = answers(tmp_path, count=COUNT)
    assert of.outcome(counted(0), UIDS) == Verdict()
    assert of.outcome(counted(1), UIDS) == Isolate("no time", 200, 2)
    assert of.outcome(counted(3), UIDS) == Isolate("no time", 200, 0)


def test_a_number_of_refusals_may_give_up_the_batch(tmp_path: Path) -> None:
    of = answers(tmp_path, count=f'{COUNT}then = "dead_letter_batch"\n')
    verdict = of.outcome(counted(1), UIDS)
    assert isinstance(verdict, Verdict)
    assert [each.message for each in verdict.rejected] == ["no time"] * 3


@pytest.mark.parametrize("failed", [None, "1", 1.5, True, -1, 4])
def test_a_number_that_is_none_proves_nothing(failed: Any, tmp_path: Path) -> None:
    assert isinstance(raised(answers(tmp_path, count=COUNT), counted(failed)), Refused)


# --- rules


def rule(lines: str) -> str:
    return f"[[on]]\n{lines}\n"


def test_the_first_rule_that_fits_counts(tmp_path: Path) -> None:
    of = answers(
        tmp_path,
        on=rule('statuses = [400]\nwords = ["*quota*"]\ndo = "retry"')
        + rule('statuses = [400]\nwhere = { code = ["7"] }\ndo = "hold"\nhint = "unlock it"')
        + rule('words = ["*quota*"]\ndo = "hold"'),
    )
    assert isinstance(raised(of, reply(400, "Your QUOTA is used up")), Retryable)
    held = raised(of, reply(400, '{"code": 7, "message": "locked"}'))
    assert isinstance(held, Refused)
    assert str(held).endswith("events: locked; unlock it")
    assert isinstance(raised(of, reply(400, '{"code": "7"}')), Rejected)
    assert isinstance(raised(of, reply(500, "quota")), Refused)


def test_a_rule_may_speak_of_a_2xx_that_is_no_success(tmp_path: Path) -> None:
    of = answers(
        tmp_path,
        on=rule('statuses = [260]\ndo = "hold"')
        + rule('statuses = [200]\nwhere = { ok = ["false"] }\ndo = "retry"'),
    )
    assert not getattr(raised(of, reply(260)), "sent", None)
    assert isinstance(raised(of, reply(200, '{"ok": false}')), Retryable)
    assert of.outcome(reply(200, '{"ok": true}'), UIDS) == Verdict()


@pytest.mark.parametrize("do", ["retry", "hold", "isolate", "reject"])
def test_a_page_for_people_is_judged_as_of_any_sink(do: str, tmp_path: Path) -> None:
    """A proxy may answer after the receiver has stored the batch, and no event is the cause."""
    of = answers(tmp_path, on=rule(f'statuses = [400, 409]\ndo = "{do}"'))
    for status in (400, 409):
        error = raised(of, reply(status, "<html>no</html>", {"content-type": "text/html"}))
        assert isinstance(error, Refused)
        assert error.sent


@pytest.mark.parametrize(
    ("lines", "status", "sent"),
    [
        ('do = "retry"', 409, False),
        ('do = "retry"', 500, True),
        ('do = "hold"', 503, True),
        ('do = "hold"\nstored = "nothing"', 503, False),
        ('do = "retry"\nstored = "unknown"', 429, True),
        ('do = "retry"\nstored = "the_valid"', 400, True),
    ],
)
def test_what_may_be_stored_is_a_possible_duplicate(
    lines: str, status: int, *, sent: bool, tmp_path: Path
) -> None:
    error = raised(answers(tmp_path, on=rule(f"statuses = [{status}]\n{lines}")), reply(status))
    assert isinstance(error, Retryable | Refused)
    assert error.sent is sent


def test_isolate_and_reject(tmp_path: Path) -> None:
    of = answers(
        tmp_path,
        on=rule('statuses = [400]\ndo = "isolate"\nstored = "the_valid"')
        + rule('statuses = [422]\ndo = "isolate"')
        + rule('statuses = [410]\ndo = "reject"')
        + rule('statuses = [413]\ndo = "split"'),
    )
    isolate = of.outcome(reply(400, "bad line"), UIDS)
    assert isinstance(isolate, Isolate)
    assert isolate.stored == 3
    isolate = of.outcome(reply(422), UIDS)
    assert isinstance(isolate, Isolate)
    assert isolate.stored == 0
    verdict = of.outcome(reply(410), UIDS)
    assert isinstance(verdict, Verdict)
    assert [each.index for each in verdict.rejected] == [0, 1, 2]
    assert isinstance(raised(of, reply(413)), TooLarge)


BEFORE = 'statuses = [400, 503]\nstored = "before_index"\nindex = "at"\n'


def test_the_events_before_an_index_are_stored(tmp_path: Path) -> None:
    retried = answers(tmp_path, on=rule(f'{BEFORE}do = "retry"'))
    verdict = retried.outcome(reply(503, '{"at": 1}'), UIDS)
    assert isinstance(verdict, Verdict)
    assert (verdict.retry, verdict.rejected) == ((1, 2), ())
    assert verdict.retry_reason is not None
    isolated = answers(tmp_path, on=rule(f'{BEFORE}do = "isolate"'))
    verdict = isolated.outcome(reply(400, '{"at": 1, "message": "bad"}'), UIDS)
    assert isinstance(verdict, Verdict)
    assert (verdict.retry, verdict.rejected[0].index) == ((2,), 1)


@pytest.mark.parametrize("body", ['{"at": 3}', '{"at": "1"}', '{"at": true}', "{}", ""])
def test_an_index_that_is_none_leaves_open_what_is_stored(body: str, tmp_path: Path) -> None:
    error = raised(answers(tmp_path, on=rule(f'{BEFORE}do = "retry"')), reply(503, body))
    assert isinstance(error, Retryable)
    assert error.sent


# --- where the description is silent


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Rejected) for status in (400, 422)),
        (413, TooLarge),
        *((status, Refused) for status in (301, 302, 303, 304, 401, 402, 403, 404, 405, 406)),
        *((status, Retryable) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_other_answers_are_judged_as_of_every_sink(
    status: int, kind: type[RelayError], tmp_path: Path
) -> None:
    assert type(raised(answers(tmp_path), reply(status))) is kind


@pytest.mark.parametrize(
    ("unit", "value", "wait"),
    [
        ("seconds", "7", 7),
        ("epoch_s", "1767268830", 30),
        ("epoch_ms", "1767268830000", 30),
        ("iso", "2026-01-01T12:00:30Z", 30),
        ("epoch_s", "soon", None),
    ],
)
def test_the_wait_is_read_from_the_receivers_own_header(
    unit: str, value: str, wait: float | None, tmp_path: Path
) -> None:
    of = answers(
        tmp_path,
        wait=f'[wait]\nheader = "X-Reset"\nunit = "{unit}"\n',
        on=rule('statuses = [503]\ndo = "retry"'),
    )
    for status in (429, 503):
        error = raised(of, reply(status, "", {"x-reset": value}))
        assert isinstance(error, Retryable)
        assert error.retry_after == wait
        usual = raised(of, reply(status, "", {"x-reset": value, "retry-after": "3"}))
        assert isinstance(usual, Retryable)
        assert usual.retry_after == 3


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"message": "no time"}', "events: no time"),
        ('{"error": {"message": "no time"}}', "events: no time"),
        ('{"errors": ["no time", "no id"]}', "events: no time"),
        ('"no time"', "events: no time"),
        ("no time\n", "events: no time"),
        ('{"message": 7}', "events"),
        ("", "events"),
    ],
)
def test_the_words_of_a_refusal_are_shown(body: str, shown: str, tmp_path: Path) -> None:
    assert str(raised(answers(tmp_path), reply(422, body))).endswith(shown)
