"""
Cekura's audit-log records (https://docs.cekura.ai/api-reference/user/list-audit-logs).

The action is in three fields: ``action_type`` (``object`` or the name of a run), ``operation_type``
and ``object_type``. There is no IP address, user agent, or before and after.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from auditrelay.events import Actor, Outcome, Target
from auditrelay.events.classify import guess
from auditrelay.events.vendors import NO_ACTOR, NO_TARGET, ParsedRecord, texts

NAME = "Cekura"
ID = "id"
ORGANISATION = "organization"
TIME = "timestamp"
FIELDS = frozenset(
    (
        "id",
        "organization",
        "organization_name",
        "project",
        "project_name",
        "user",
        "user_email",
        "api_key_name",
        "action_type",
        "operation_type",
        "object_type",
        "object_id",
        "timestamp",
    )
)
_TEXTS = (
    "action_type",
    "operation_type",
    "object_type",
    "object_id",
    "user",
    "user_email",
    "api_key_name",
    "organization_name",
    "project",
    "project_name",
)

_OBJECTS = {
    # as spelled in the documentation
    "aiagent": "agent",
    "metric": "metric",
    "scenario": "scenario",
    "api_key": "api_key",
    # named there as audited, without their spelling: likely spellings
    "agent": "agent",
    "apikey": "api_key",
    "run": "run",
    "execution": "run",
    "cronjob": "cron_job",
    "cron_job": "cron_job",
    "organization": "organization",
    "project": "project",
    "settings": "settings",
    "organization_settings": "settings",
    "project_settings": "settings",
}
_OPERATIONS = {"create": "create", "update": "update", "delete": "delete"}
_ACTIONS = {
    "run_scenarios": ("run", "execute"),
    "run_scenarios_text": ("run", "execute"),
    "generate_scenarios": ("scenario", "create"),
    "observability": ("other", "other"),  # does not say what was done to what
}


class _Action(NamedTuple):
    name: str
    kind: str
    verb: str
    outcome: Outcome
    warnings: tuple[str, ...]


@lru_cache(maxsize=1024)
def _action(action: str | None, operation: str | None, object_type: str | None) -> _Action:
    """Return the meaning of the three fields: the documentation has completed actions only."""
    if action in (None, "object"):
        name = ".".join(part for part in (object_type or action, operation) if part)
        kind, verb = _OBJECTS.get(object_type or ""), None
    else:
        name = action
        kind, verb = _ACTIONS.get(action, (None, None))
    known = kind is not None
    if operation is None:
        known &= verb is not None
        return _documented(name, kind, verb, known=known)
    verb = _OPERATIONS.get(operation)
    if verb is not None:
        return _documented(name, kind, verb, known=known)
    guessed = guess(operation)
    return _Action(
        name,
        kind or "other",
        guessed.verb or "other",
        "failure" if guessed.failed else "unknown",
        ("unknown_action", "heuristic_verb") if guessed.verb else ("unknown_action",),
    )


def _documented(name: str, kind: str | None, verb: str | None, *, known: bool) -> _Action:
    return _Action(
        name or "unknown",
        kind or "other",
        verb or "other",
        "success" if known or verb else "unknown",
        () if known else ("unknown_action",),
    )


def read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    """Parse one record, whatever its fields are."""
    (
        action_type,
        operation,
        object_type,
        object_id,
        user,
        email,
        key_name,
        org_name,
        project_id,
        project_name,
    ) = texts(record, _TEXTS, unmapped_fields)
    action = _action(action_type, operation, object_type)
    actor = NO_ACTOR
    if email or user:
        # by the documentation never together with a key's name; if it is, both are kept
        actor = Actor(kind="user", id=user, name=key_name, email=email)
    elif key_name:
        actor = Actor(kind="api_key", name=key_name)
    who = email or key_name or user or "unknown actor"
    return ParsedRecord(
        native_action=action.name,
        native_category=action_type,
        kind=action.kind,
        verb=action.verb,
        outcome=action.outcome,
        warnings=action.warnings,
        actor=actor,
        target=Target(type=object_type, id=object_id) if object_type or object_id else NO_TARGET,
        org_name=org_name,
        project_id=project_id,
        project_name=project_name,
        message=f"{who} {action.name} {object_id}" if object_id else f"{who} {action.name}",
    )
