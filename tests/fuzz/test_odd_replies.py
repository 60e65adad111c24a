"""The fuzzing itself: what it changes, and that it would find something."""

import json
from collections import Counter

import pytest
from tests.fuzz.odd_replies import OddReplies

from auditrelay.sandbox.messages import Request, Response, json_response

REQUEST = Request(1, "GET", "/", "/", {}, {}, b"", 0.0)


def answer() -> Response:
    return json_response(200, {"data": [{"id": "a", "at": 1}, {"id": "b", "at": 2}], "total": 2})


def test_the_same_seed_changes_the_same() -> None:
    first, second, other = OddReplies(1), OddReplies(1), OddReplies(2)
    changed = [[odd.change(REQUEST, answer()) for _ in range(50)] for odd in (first, second, other)]
    assert changed[0] == changed[1] != changed[2]


def test_everything_about_a_reply_is_changed_often() -> None:
    odd, seen = OddReplies(3), Counter[str]()
    for _ in range(2000):
        true, changed = answer(), odd.change(REQUEST, answer())
        seen["status"] += changed.status != true.status
        seen["headers"] += changed.headers != true.headers
        seen["body"] += changed.body != true.body
        with_json = changed.body != true.body and _is_json(changed.body)
        seen["still json"] += with_json
        seen["unchanged"] += changed == true
    assert min(seen[part] for part in ("status", "headers", "body", "still json")) > 100, seen
    assert seen["unchanged"] < 500


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def trust(odd: OddReplies) -> None:
    """Read many changed replies as a careless client would."""
    for _ in range(2000):
        changed = odd.change(REQUEST, answer())
        if changed.status == 200 and _is_json(changed.body):
            _ = [record["id"] + "!" for record in json.loads(changed.body)["data"]]


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_that_trusts_what_it_gets_is_found_out(seed: int) -> None:
    with pytest.raises((KeyError, TypeError, AttributeError)):
        trust(OddReplies(seed))
