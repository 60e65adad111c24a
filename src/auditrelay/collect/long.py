"""
What is long is read in a thread, so that the loop goes on meanwhile.

A vendor decides how long its records are, but not for how long nothing else happens here. Pages are
processed in slices of :data:`MAX_SLICE` bytes; what is longer is a single record.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, TypeVarTuple, Unpack

MAX_SLICE: Final = 2**20
"""
Bytes of records that are processed at once: half a second, even if all are odd.

A usual page of 1,000 records is below it: each slice is looked up, stored and sent on by itself.
"""

T = TypeVar("T")
A = TypeVarTuple("A")


def is_long(records: Sequence[bytes]) -> bool:
    """Return whether *records* are longer than a slice."""
    return sum(map(len, records)) > MAX_SLICE


def in_slices(records: list[bytes], most: int) -> list[list[bytes]]:
    """Return *records* in slices of at most *most* records and MAX_SLICE bytes."""
    if len(records) <= most and not is_long(records):
        return [records]
    slices: list[list[bytes]] = []
    start = size = 0
    for end, record in enumerate(records):
        size += len(record)
        if end > start and (size > MAX_SLICE or end - start == most):
            slices.append(records[start:end])
            start, size = end, len(record)
    slices.append(records[start:])
    return slices


async def read(records: Sequence[bytes], work: Callable[[Unpack[A]], T], *arguments: *A) -> T:
    """Return the result of *work*, which reads *records*: in a thread if they are long."""
    if is_long(records):
        return await asyncio.to_thread(work, *arguments)
    return work(*arguments)
