"""The forms that an event can be sent in, by their names in the configuration."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from auditrelay.events import AuditEvent
from auditrelay.events.forms import asim, cim, datadog, ecs, ocsf, raw
from auditrelay.events.marks import NO_MARKS


class Render(Protocol):
    """Renders an event as a value for orjson. Pure and total."""

    def __call__(
        self, event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS
    ) -> dict[str, Any]:
        """Return *event* in this form, with *marks* among auditrelay's own fields."""


FORMS: Mapping[str, Render] = {
    "asim": asim.render,
    "cim": cim.render,
    "datadog": datadog.render,
    "ecs": ecs.render,
    "ocsf": ocsf.render,
    "raw": raw.render,
}

SPLICED: Mapping[str, Mapping[str, Callable[[Sequence[bytes]], list[bytes]]]] = {
    **dict.fromkeys(FORMS, MappingProxyType({})),
    "datadog": datadog.SPLICED,
    "ecs": ecs.SPLICED,
}
"""The functions by which each form embeds JSON texts of events, by field."""
