"""The times of a page's records, for walks that end by them."""

from collections.abc import Sequence
from typing import Final

from auditrelay.confirmed_time import LATEST
from auditrelay.descriptions.model import Records
from auditrelay.descriptions.places import find
from auditrelay.descriptions.times import reader
from auditrelay.events.decode import Undecodable
from auditrelay.events.decode import decode as decode_record
from auditrelay.events.timestamps import are_plausible
from auditrelay.window import micros

_LATEST: Final = micros(LATEST)


class RecordTimes:
    """Reads the times of records where the description says that they are."""

    def __init__(self, records: Records) -> None:
        self.paths = " or ".join(map(str, records.time))
        """For people."""
        self._find = [find(path) for path in records.time]
        self._read = reader(records.time_format)

    def __call__(self, records: Sequence[bytes]) -> list[int | None]:
        """Return the time of each of *records* in microseconds; None if it has none."""
        return list(map(self._time, records))

    def _time(self, record: bytes) -> int | None:
        try:
            value = decode_record(record).value
        except Undecodable:
            return None
        for find_in in self._find:
            text = find_in(value)
            if text is None or text == "":
                continue
            parsed = self._read(text)
            # A walk must not end for a record that claims to be of 1970.
            if parsed is None or not are_plausible(parsed[:1], _LATEST):
                return None
            return parsed[0]
        return None
