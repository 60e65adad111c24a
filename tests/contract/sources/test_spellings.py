"""Every source understands an answer, however its server spells lists, counts and flags."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from tests.contract.sources.conftest import Rig
from tests.support.cases import case

from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response

Spell = Callable[[Any], Any]

SPELLINGS: dict[str, Spell] = {
    "null for an empty list": lambda value: None if value == [] else value,
    "counts as texts": lambda value: str(value) if type(value) is int else value,
    "counts with a fraction of zero": lambda value: float(value) if type(value) is int else value,
    "flags as numbers": lambda value: int(value) if type(value) is bool else value,
    "flags as texts": lambda value: str(value).lower() if type(value) is bool else value,
    "an empty text for no page": lambda value: "" if value is None else value,
    "false for no page": lambda value: False if value is None else value,
    "0 for no page": lambda value: 0 if value is None else value,
}

ERRORS = "errors"
"""What it says of an error is no field of a page."""


def respelt(value: Any, spell: Spell) -> Any:
    """Return *value* with everything but the records spelt by *spell*."""
    if isinstance(value, dict):
        return {key: item if key == ERRORS else respelt(item, spell) for key, item in value.items()}
    return spell(value)


def in_other_words(spell: Spell) -> faults.Action:
    def change(_: Request, response: Response) -> Response:
        if response.status != 200:
            return response
        return replace(response, body=orjson.dumps(respelt(orjson.loads(response.body), spell)))

    return faults.rewrite(change)


@pytest.mark.parametrize("count", [0, 9])
async def test_each_spelling_of_an_answer_is_the_same_answer(rig: Rig, count: int) -> None:
    rig.fill(count)
    plain = await rig.shown()
    for name, spell in SPELLINGS.items():
        with case(name):
            rig.double.faults.add(in_other_words(spell), times=None)
            assert await rig.shown() == plain == rig.made()
            rig.double.faults.clear()


@pytest.mark.parametrize("count", [0, 9])
async def test_a_flag_that_is_absent_on_the_last_page_says_no_more(rig: Rig, count: int) -> None:
    rig.fill(count)

    def change(_: Request, response: Response) -> Response:
        answer = orjson.loads(response.body)
        if isinstance(answer, dict) and response.status == 200:
            dull = [key for key, value in answer.items() if value in (None, False)]
            answer = {key: value for key, value in answer.items() if key not in dull}
        return replace(response, body=orjson.dumps(answer))

    rig.double.faults.add(faults.rewrite(change), times=None)
    assert await rig.shown() == rig.made()


async def test_a_list_that_is_missing_is_an_error(rig: Rig) -> None:
    rig.fill(3)

    def change(_: Request, response: Response) -> Response:
        def without(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            return {key: without(item) for key, item in value.items() if type(item) is not list}

        return replace(response, body=orjson.dumps(without(orjson.loads(response.body))))

    rig.double.faults.add(faults.rewrite(change), times=None)
    error = await rig.whole_or_error()
    assert getattr(error, "reason", None) == "bad_reply"


async def test_null_for_a_page_that_was_announced_is_an_error(rig: Rig) -> None:
    rig.fill(3 * rig.page)

    def change(_: Request, response: Response) -> Response:
        def without(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: without(item) for key, item in value.items()}
            return None if type(value) is list else value

        return replace(response, body=orjson.dumps(without(orjson.loads(response.body))))

    # Not the first page, nor the requests before it.
    first = rig.double.EXTRA_REQUESTS + 1
    rig.double.faults.add(faults.rewrite(change), nth=range(first + 1, 200), times=None)
    error = await rig.whole_or_error()
    assert getattr(error, "reason", None) in ("bad_reply", "no_progress")
