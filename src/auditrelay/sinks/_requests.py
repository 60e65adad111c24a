"""What sinks over HTTP share: bodies, compression, parts of a batch, replies as errors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import orjson
from isal import igzip

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.replies import Reply, check
from auditrelay.sinks import Item, Rejection, Verdict
from auditrelay.telemetry.scrubber import scrub


def dump(document: dict[str, Any]) -> bytes:
    """
    Return *document* as JSON on one line. Total: what JSON cannot hold becomes text.

    A record that is spliced in verbatim may hold line ends between its tokens, where they mean
    nothing; in a format of lines they would cut the document in two.
    """
    try:
        text = orjson.dumps(document)
    except orjson.JSONEncodeError:
        text = orjson.dumps(_writable(document))
    if b"\n" in text or b"\r" in text:
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return text


def _writable(value: Any) -> Any:
    """Return *value* in a form that orjson writes: valid Unicode, 64-bit numbers, plain kinds."""
    if isinstance(value, bool | float | orjson.Fragment) or value is None:
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, dict):
        return {_writable(str(key)): _writable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(each) for each in value]
    return str(value).encode("utf-8", "replace").decode("utf-8")


_OFF_LOOP = 64 * 1024
"""Bytes above which compressing takes longer (0.1 ms) than handing it to a thread costs."""


async def packed(body: bytes, compression: Literal["gzip", "none"]) -> tuple[bytes, dict[str, str]]:
    """Return *body* as it is to be sent, and the headers that say how."""
    if compression == "none":
        return body, {}
    if len(body) > _OFF_LOOP:
        content = await asyncio.to_thread(igzip.compress, body, 1)
    else:
        content = igzip.compress(body, 1)
    return content, {"Content-Encoding": "gzip"}


async def without_oversized(
    batch: Sequence[Item], most: int, send: Callable[[Sequence[Item]], Awaitable[Verdict]]
) -> Verdict:
    """
    *send* what of *batch* has at most *most* bytes an event; reject the others without sending.

    For products that truncate in silence, or drop the rest of a batch, when an event is too large.
    """
    return await without(
        batch,
        [
            Rejection(index, "too_large", f"{len(item.text)} bytes; the most is {most}")
            for index, item in enumerate(batch)
            if len(item.text) > most
        ],
        send,
    )


async def without(
    batch: Sequence[Item],
    unfit: Sequence[Rejection],
    send: Callable[[Sequence[Item]], Awaitable[Verdict]],
) -> Verdict:
    """*send* what of *batch* is not *unfit*, and add those rejections to the verdict."""
    if not unfit:
        return await send(batch)
    refused = {rejection.index for rejection in unfit}
    verdict = await only([i for i in range(len(batch)) if i not in refused], batch, send)
    return replace(verdict, rejected=(*unfit, *verdict.rejected))


async def only(
    fit: Sequence[int],
    batch: Sequence[Item],
    send: Callable[[Sequence[Item]], Awaitable[Verdict]],
) -> Verdict:
    """*send* the events of *batch* at the indices *fit*; the verdict is about *batch*."""
    verdict = await send([batch[index] for index in fit]) if fit else Verdict()
    return replace(
        verdict,
        rejected=tuple(replace(each, index=fit[each.index]) for each in verdict.rejected),
        retry=tuple(fit[index] for index in verdict.retry),
    )


def fault(reply: Reply, *, said: str = "", wait: float | None = None) -> RelayError:
    """
    Return what a *reply* that is no success means for the batch.

    Only 400 and 422 can be about an event. Any other refusal would meet every event alike, so
    it holds the sink instead of filling the dead letters. *said* are the product's own words,
    *wait* the seconds that it asks for in a way of its own.
    """
    try:
        check(reply, explanation=words(said), wait=wait)
    except Rejected as error:
        if isinstance(error, TooLarge) or error.status in (400, 422):
            return error
        return Refused(
            f"{error}; no event is the cause, check the address and what stands in between",
            status=error.status,
        )
    except RelayError as error:
        return error
    return unproven(reply, "the product's")


def unproven(reply: Reply, whose: str) -> Retryable:
    """Return the error for a success that proves nothing: its body is not *whose* it should be."""
    return Retryable(
        f"{reply.status} from {reply.where}, but the body is not {whose} answer "
        f"({len(reply.body)} bytes): something in between may have given it",
        reason="bad_reply",
        sent=True,
    )


def words(text: str) -> str:
    """Return what a product said in a form that can be shown: without secrets, bounded."""
    return scrub(text, 300)
