"""Quill Lake, which does not exist: a receiver that is known from its description alone."""

import json
from pathlib import Path
from typing import Any, ClassVar

from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.receivers.description import Item
from auditrelay.sandbox.refusals import Refusal

FILE = Path(__file__).with_suffix(".toml")


def busy(double: Any, times: int = 1) -> None:
    """Let *double* refuse all but the first event of a batch for now, *times* times."""
    double.busy = times


def lock(double: Any) -> dict[str, Any]:
    """Let *double* be read-only."""
    double.read_only = True
    return {}


class Quill(Receiver):
    """The lake; an id is stored once, and events whose uid is in ``bad`` are refused."""

    NAME: ClassVar = "quill"
    FILE: ClassVar = FILE
    SECRET_KEY: ClassVar = "key"
    DEDUPLICATES: ClassVar = True
    REFUSALS: ClassVar = (
        Refusal("wrong key", 401, "Unauthorized", lambda _: {"key": "wrong-key-1"}),
        Refusal("wrong address", 404, "not found", lambda it: {"url": f"{it.url}/elsewhere"}),
        Refusal("read-only", 409, "unlock it", lock),
    )
    MISBEHAVIOURS: ClassVar = {
        "busy": busy,
        "fewer verdicts": lambda double: setattr(double, "silent_about", 2),
        "400": lambda double: double.fail_batches(answer(400, b'{"message": "odd"}')),
        "JSON of another kind": lambda double: double.fail_batches(answer(200, b'{"ok": 1}')),
    }

    bad: frozenset[str | None] = frozenset()
    busy = 0
    silent_about = 0
    read_only = False

    def problem(self, item: Item) -> str | None:
        return "the entry is not accepted" if item.uid in self.bad else None

    def respond(self, request: Request) -> Response:
        if self.read_only:
            return self.refusal(409, "read-only")
        return super().respond(request)

    def take(self, items: list[Item]) -> Response:
        results = []
        for number, item in enumerate(items):
            why = self.problem(item)
            if why is not None:
                results.append({"state": "bad", "why": why})
            elif self.busy and number:
                results.append({"state": "busy"})
            elif item.uid in self.stored.by_uid:
                results.append({"state": "known"})
            else:
                self.store([item])
                results.append({"state": "stored"})
        self.busy = max(self.busy - 1, 0)
        shown = results[: len(results) - self.silent_about] if self.silent_about else results
        self.silent_about = 0
        return Response(200, json.dumps({"results": shown}).encode())
