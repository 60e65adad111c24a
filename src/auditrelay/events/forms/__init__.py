"""The forms that an event can be sent in, by the names that the configuration uses."""

from collections.abc import Mapping
from typing import Any, Protocol

from auditrelay.events import AuditEvent
from auditrelay.events.forms import cim, datadog, ecs, ocsf, raw
from auditrelay.events.marks import NO_MARKS


class Render(Protocol):
    """Turns an event into a value for orjson. Pure and total."""

    def __call__(
        self, event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS
    ) -> dict[str, Any]:
        """Return *event* in this form, with *marks* among our own words."""


FORMS: Mapping[str, Render] = {
    "cim": cim.render,
    "datadog": datadog.render,
    "ecs": ecs.render,
    "ocsf": ocsf.render,
    "raw": raw.render,
}
