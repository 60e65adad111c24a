"""
Made-up records of a described vendor: those of its sample reply, with other times and ids.

Each has a mark by which its events are found in a SIEM, whatever became of their ids there.
"""

import json
import zlib
from copy import deepcopy
from datetime import datetime
from typing import Any, Final

from auditrelay.sandbox.described import places, times
from auditrelay.sandbox.described.description import Description
from auditrelay.sandbox.history import GeneratedRecords
from auditrelay.sandbox.stored import mark

_ID: Final = "@ID@"
_TIME: Final = "@TIME@"
"""What stands for the id and the time of a record in its text, for a load."""


class Maker:
    """Makes records of the vendor that *description* speaks of."""

    def __init__(self, description: Description) -> None:
        self._description = description
        self._table = description.records
        self._templates = description.templates() or [{}]

    def make(self, number: int, at: int) -> tuple[dict[str, Any], list[str]]:
        """
        Return the record *number*, at the time *at* in microseconds.

        With it comes what a SIEM knows each of its events by: a mark, or an id that is a number.
        """
        record = deepcopy(self._templates[number % len(self._templates)])
        time_path = _first_of(record, self._table["time"])
        places.put(record, time_path, times.write(at, self._description.time_format))
        whole = mark(self._description.origin, number)
        if self._table.get("no_id"):
            record["sandbox_mark"] = whole  # two records differ
            return record, [whole]
        path = self._id_path(record, time_path)
        if type(places.get(record, path)) is int:
            # Of no other double, and exact in a reader of JSON for which all numbers are floats.
            numeric = zlib.crc32(self._description.origin.encode()) * 1_000_000 + number
            places.put(record, path, numeric)
            return record, [str(numeric)]
        places.put(record, path, whole)
        if "split" in self._table:
            return record, self._mark_elements(record, whole) or [whole]
        return record, [whole]

    def load(
        self, count: int, start: datetime, end: datetime, record_bytes: int
    ) -> GeneratedRecords:
        """
        Return *count* records in ``[start, end)`` that are generated when they are read.

        One that is shorter than *record_bytes* has a field that fills it up.
        """
        texts: list[tuple[bytes, bytes]] = []
        for template in self._templates:
            record = deepcopy(template)
            time_path = _first_of(record, self._table["time"])
            id_path = "sandbox_mark"
            if not self._table.get("no_id"):
                id_path = self._id_path(record, time_path)
            has_number = type(places.get(record, id_path)) is int
            name = b"%d" if has_number else _json(mark(self._description.origin, 0))
            name = name.replace(b"00000000", b"%08d")
            places.put(record, time_path, _TIME)
            places.put(record, id_path, _ID)
            text = _json(record)
            if len(text) < record_bytes:
                text = _json({**record, "sandbox_filler": "x" * (record_bytes - len(text))})
            texts.append((text, name))
        form = self._description.time_format
        granule = times.granule(form)

        def write(number: int, at: int) -> bytes:
            text, name = texts[number % len(texts)]
            when = _json(times.write(at - at % granule, form))
            return text.replace(_json(_ID), name % number).replace(_json(_TIME), when)

        origin = self._description.origin
        return GeneratedRecords(
            count, start, end - start, lambda number: mark(origin, number), write
        )

    def _id_path(self, record: dict[str, Any], time_path: str) -> str:
        """Return where the id of *record* is; of several parts the last one that is a text."""
        if "id" in self._table:
            return _first_of(record, self._table["id"])
        parts: list[str] = [each for each in self._table["id_parts"] if each != time_path]
        texts = [each for each in parts if isinstance(places.get(record, each), str)]
        return (texts or parts)[-1]

    def _mark_elements(self, record: dict[str, Any], whole: str) -> list[str]:
        """Mark each of the elements that *record* is split into; return the marks."""
        marks = []
        for place, element in enumerate(places.get(record, self._table["split"]) or []):
            element["sandbox_mark"] = f"{whole}-{place}"
            marks.append(element["sandbox_mark"])
        return marks


def _first_of(record: dict[str, Any], paths: str | list[str]) -> str:
    """Return the first of *paths* with a value in *record*, else the first."""
    listed = [paths] if isinstance(paths, str) else paths
    return next((each for each in listed if places.get(record, each) is not None), listed[0])


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
