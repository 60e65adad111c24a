"""Which index or data stream an event goes to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from auditrelay.events import AuditEvent
from auditrelay.sinks import Item

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


DIRECTIVE = re.compile(r"%(.?)")


DATES = "YmdHjGV"


FORBIDDEN = re.compile(r'[\\/*?"<>| ,#:\x00-\x1f\x7f]')


FORBIDDEN_IN_STREAM = re.compile(r'[-\\/*?"<>| ,#:\x00-\x1f\x7f]')


CREATE = b'{"create":{"_index":"'


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go: the *action* line up to the id, and the data stream's parts if it is one."""

    action: bytes
    stream: dict[str, str] | None

    @classmethod
    def of(cls, index: str, event: AuditEvent) -> Self:
        """Fill in *index* for *event*. What an index name cannot hold becomes an underscore."""
        # In a data stream's name hyphens stand between the parts, and nowhere else.
        wrong = FORBIDDEN_IN_STREAM if is_data_stream(index) else FORBIDDEN
        known = {"vendor": event.vendor, "source": event.source}
        at = _EPOCH + timedelta(microseconds=event.at)
        name = DIRECTIVE.sub(lambda found: at.strftime(found[0]), index)
        name = PLACEHOLDER.sub(lambda found: wrong.sub("_", known[found[1]].lower()), name)
        name = name.lstrip("-_+.")
        parts = name.split("-")
        stream = None
        if name.startswith("logs-") and len(parts) == 3:
            # Constant within a stream: another value would have the document refused.
            stream = dict(zip(("type", "dataset", "namespace"), parts, strict=True))
        return cls(b'%b%b","_id":"' % (CREATE, name.encode()), stream)

    @property
    def target(self) -> str:
        """The name of the index or stream."""
        return target_of(self.action)


def target_of(text: bytes) -> str:
    """Return the name of the index or stream that an action of ours holds."""
    return text[len(CREATE) : text.index(b'"', len(CREATE))].decode()


def by_target(batch: Sequence[Item]) -> dict[str, list[int]]:
    """Return the indices of *batch* by the name that :meth:`Sink.render` has put into its texts."""
    targets: dict[str, list[int]] = {}
    action, places = b"\n", []
    for index, item in enumerate(batch):
        if not item.text.startswith(action):  # most batches have one target
            target = target_of(item.text)
            action = b'%b%b"' % (CREATE, target.encode())
            places = targets.setdefault(target, [])
        places.append(index)
    return targets


def is_data_stream(index: str) -> bool:
    """Tell whether *index* names a data stream."""
    return index.startswith("logs-") and index.count("-") == 2
