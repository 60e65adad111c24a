"""Requests and answers as JSON: they come as they went, and those of another version are errors."""

import contextlib
import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay import __version__
from auditrelay.collect.backfill import BackfillProgress
from auditrelay.collect.verify import Missing, Shown, VerifyProgress, VerifyReport
from auditrelay.errors import ConfigError, Locked, RelayError, Retryable, StateError
from auditrelay.service.desk import (
    Answer,
    Backfill,
    Backfilled,
    Drop,
    Dropped,
    Failure,
    Forget,
    Forgotten,
    Note,
    Recorded,
    Replay,
    Replayed,
    Request,
    Restored,
    Verified,
    Verify,
    decode_answer,
    decode_request,
    encode,
)
from auditrelay.store import LetterOf

AT = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
BACKFILL = Backfill(
    source="voice",
    start=AT,
    end=None,
    sinks=("splunk",),
    dry_run=False,
    newest_first=True,
    concurrency=4,
)
REPORT = VerifyReport(
    source="voice",
    start="2026-01-01T12:00:00Z",
    end="2026-01-02T12:00:00Z",
    checked=1,
    digest_at_source="0" * 40,
    forwarded=0,
    digest_forwarded="0" * 40,
    sinks={"splunk": {"delivered": 1}},
    asked_at_sink=(),
    missing=(Missing("ab", None, "2026-01-01T13:00:00Z", ("splunk",), None),),
    repaired=0,
    deleted_at_source=(),
    not_shown=(),
    began_at="2026-01-03T12:00:00Z",
    ended_at="2026-01-03T12:00:01Z",
    version=__version__,
)


@pytest.mark.parametrize(
    "request_",
    [
        BACKFILL,
        Verify(source="voice", start=AT, end=AT, repair=True, at_sink=False),
        Replay((1, 2)),
        Drop((1,), {1: LetterOf("ab", "splunk")}),
        Forget("a\nb ü", yes=False),
        Restored("disk died"),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_request_comes_as_it_went_in_one_line(request_: Request) -> None:
    text = encode(request_)
    assert b"\n" not in text
    assert decode_request(text) == request_
    assert json.loads(text)["do"] == type(request_).__name__.lower()


@pytest.mark.parametrize(
    "answer",
    [
        Note("uids are\nforgotten"),
        BackfillProgress(1.5, 3600, 7, 6, 1, resumed=True),
        VerifyProgress(5, 1),
        Shown(0, 2, ((-(2**63), "ab", "cd"), (1, "ef", "ab"))),
        Backfilled(BackfillProgress(3600, 3600)),
        Verified(REPORT),
        Replayed((1,)),
        Dropped(()),
        Forgotten("it"),
        Recorded(),
        Failure("no", 2),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_an_answer_comes_as_it_went_in_one_line(answer: Answer) -> None:
    text = encode(answer)
    assert b"\n" not in text
    assert decode_answer(text) == answer


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ConfigError("a", "b"), ConfigError),
        (StateError("a\nb"), StateError),
        (Locked("a\nb"), StateError),
        (Retryable("a\nb", reason="timeout"), RelayError),
    ],
)
def test_a_failure_is_raised_with_the_exit_status_that_it_had(
    error: RelayError, raised: type[RelayError]
) -> None:
    again = Failure.of(error).error()
    assert type(again) is raised
    assert str(again) == "a\nb"


COMPLETE: dict[str, Any] = json.loads(encode(BACKFILL))


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        ({"do": "teleport"}, "Invalid value 'teleport'"),
        ({}, "missing required field `do`"),
        ({"do": ["backfill"]}, "Expected `str`"),
        ({"do": "backfill", "source": "it"}, "missing required field `start`"),
        ({"do": "verify", "source": "it", "start": AT.isoformat(), "end": None}, "field `repair`"),
        ({"do": "replay"}, "missing required field `ids`"),
        ({"do": "replay", "ids": ["1"]}, "Expected `int`, got `str` - at `$.ids[0]`"),
        ({"do": "forget", "name": "it"}, "missing required field `yes`"),
        ({**COMPLETE, "start": "yesterday"}, "Invalid RFC3339 encoded datetime - at `$.start`"),
        ({**COMPLETE, "start": "2026-01-01T12:00:00"}, "with a timezone component - at `$.start`"),
        ({**COMPLETE, "concurrency": 0}, "Expected `int` >= 1 - at `$.concurrency`"),
        (5, "Expected `object`, got `int`"),
        (None, "Expected `object`, got `null`"),
    ],
)
def test_a_request_of_another_version_gets_an_error_that_says_so(sent: object, detail: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_request(json.dumps(sent).encode())
    message = str(caught.value)
    assert f"(auditrelay {__version__}) does not support this request: " in message
    assert detail in message
    assert "are of different versions; restart the service" in message


@pytest.mark.parametrize("garbage", [b"", b'{"do": ', b"\xff\xfe", b"[" * 200_000])
def test_what_is_no_json_is_an_error_too(garbage: bytes) -> None:
    with pytest.raises(ConfigError, match="does not support this request"):
        decode_request(garbage)
    with pytest.raises(RelayError, match="does not understand"):
        decode_answer(garbage)


def test_a_newer_request_may_have_more_keys() -> None:
    assert decode_request(json.dumps({**COMPLETE, "more": 1}).encode()) == BACKFILL


def test_a_message_that_is_no_unicode_can_be_answered() -> None:
    failure = Failure.of(RelayError("the file pr\udcfcfung.csv"))
    assert decode_answer(encode(failure)) == Failure(r"the file pr\udcfcfung.csv", 1)


@given(
    st.dictionaries(
        st.sampled_from([field for kind in get_args(Request) for field in kind.__struct_fields__])
        | st.just("do"),
        st.sampled_from([kind.__struct_config__.tag for kind in get_args(Request)])
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
)
def test_whatever_a_request_is_made_of_it_is_one_or_refused(table: dict[str, object]) -> None:
    text = json.dumps(table, default=str).encode()
    with contextlib.suppress(ConfigError):
        assert isinstance(decode_request(text), Request)
