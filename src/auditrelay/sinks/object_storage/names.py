"""The keys of objects: where a batch goes, and which of its events go together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from auditrelay.sinks import Item, Part, digest_of
from auditrelay.window import moment

_DIGITS = 8
"""Of the digest of the uids, so that no two sets of events get the same key."""


def parts(
    batch: Sequence[Item],
    log: str,
    now: datetime,
    *,
    prefix: str,
    partition: Literal["sealed", "event"],
    suffix: str,
) -> list[Part]:
    """
    Return the parts of *batch*, which is sealed *now*: one a source, and a day of *event* time.

    A key says where it comes from (*log* is the state's), where in the spool its first event is,
    and how many there are.
    """
    folders: dict[str, list[int]] = {}
    for index, item in enumerate(batch):
        day = f"dt={moment(item.at):%Y-%m-%d}" if partition == "event" else f"{now:%Y/%m/%d/%H}"
        folders.setdefault(f"{prefix}{item.source}/{day}", []).append(index)
    made = []
    for folder, indices in folders.items():
        events = [batch[index] for index in indices]
        first, count = events[0].position, len(events)
        name = f"{log}-{first:020d}-{count}-{digest_of(events)[:_DIGITS]}"
        made.append(Part(f"{folder}/{name}{suffix}", indices))
    return made
