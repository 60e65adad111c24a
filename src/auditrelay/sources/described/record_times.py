"""The times of a page's records, for walks that end by them."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from auditrelay.confirmed_time import LATEST
from auditrelay.descriptions.model import Records
from auditrelay.descriptions.places import Path, find
from auditrelay.descriptions.times import reader
from auditrelay.events.decode import NOT_DECODED, Undecodable
from auditrelay.events.decode import decode as decode_record
from auditrelay.events.timestamps import are_plausible
from auditrelay.window import micros

_LATEST: Final = micros(LATEST)


class RecordTimes:
    """
    Reads the times of records where the description says that they are.

    Of a record only what the paths begin with is decoded.
    """

    def __init__(self, records: Records) -> None:
        self.paths = " or ".join(map(str, records.time))
        """For people."""
        self._read = reader(records.time_format)
        self._find = [find(path) for path in records.time]
        firsts = dict.fromkeys(path.steps[0] for path in records.time)
        attributes = {first: f"at{number}" for number, first in enumerate(firsts)}
        self._find_quickly = [
            _behind(attributes[path.steps[0]], Path(path.text, path.steps[1:]))
            for path in records.time
        ]
        shape = msgspec.defstruct(
            "Timed",
            [(attribute, Any, None) for attribute in attributes.values()],
            rename={attribute: str(first) for first, attribute in attributes.items()},
        )
        self._decode = msgspec.json.Decoder(shape).decode

    def __call__(self, records: Sequence[bytes]) -> list[int | None]:
        """Return the time of each of *records* in microseconds; None if it has none."""
        return list(map(self._time, records))

    def _time(self, record: bytes) -> int | None:
        finds: Sequence[Callable[[Any], Any]] = self._find_quickly
        try:
            value = self._decode(record)
        except NOT_DECODED:  # an odd record, or one that is no object
            finds = self._find
            try:
                value = decode_record(record).value
            except Undecodable:
                return None
        for find_in in finds:
            text = find_in(value)
            if text is None or text == "":
                continue
            parsed = self._read(text)
            # A walk must not end for a record that claims to be of 1970.
            if parsed is None or not are_plausible(parsed[:1], _LATEST):
                return None
            return parsed[0]
        return None


def _behind(attribute: str, path: Path) -> Callable[[Any], Any]:
    """Return what finds *path* in an attribute of a decoded record."""
    found = find(path)
    return lambda record: found(getattr(record, attribute))
