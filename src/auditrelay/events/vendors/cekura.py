"""
Cekura's audit-log records (https://docs.cekura.ai/api-reference/user/list-audit-logs).

The action is in three fields: ``action_type`` (``object`` or the name of a run), ``operation_type``
and ``object_type``. There is no IP address, user agent, or before and after.
"""

from functools import lru_cache

from msgspec import UNSET

from auditrelay.events import Actor
from auditrelay.events.classify import guess
from auditrelay.events.marks import UNKNOWN_ACTION
from auditrelay.events.vendors import (
    NO_ACTOR,
    Action,
    Columns,
    Documented,
    Field,
    ParsedPage,
    either,
    guessed_action,
    messages,
)

NAME = "Cekura"
ID = "id"
ORGANISATION = "organization"
TIME = "timestamp"


class Record(Documented):
    """The documented fields of a record."""

    id: Field = UNSET
    organization: Field = UNSET
    organization_name: Field = UNSET
    project: Field = UNSET
    project_name: Field = UNSET
    user: Field = UNSET
    user_email: Field = UNSET
    api_key_name: Field = UNSET
    action_type: Field = UNSET
    operation_type: Field = UNSET
    object_type: Field = UNSET
    object_id: Field = UNSET
    timestamp: Field = UNSET


FIELDS = frozenset(Record.__struct_fields__)

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


@lru_cache(maxsize=1024)
def _action(action: str | None, operation: str | None, object_type: str | None) -> Action:
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
        return _documented(name, action, kind, verb, known=known)
    verb = _OPERATIONS.get(operation)
    if verb is not None:
        return _documented(name, action, kind, verb, known=known)
    guessed = guess(operation)
    return guessed_action(name, action, kind or "other", guessed)


def _documented(
    name: str, category: str | None, kind: str | None, verb: str | None, *, known: bool
) -> Action:
    return Action(
        name or "unknown",
        category,
        kind or "other",
        verb or "other",
        "success" if known or verb else "unknown",
        () if known else (UNKNOWN_ACTION,),
    )


@lru_cache(maxsize=512)
def _actor(user: str | None, email: str | None, key_name: str | None) -> Actor:
    if email or user:
        # by the documentation never together with a key's name; if it is, both are kept
        return Actor(kind="user", id=user, name=key_name, email=email)
    return Actor(kind="api_key", name=key_name) if key_name else NO_ACTOR


def read(page: Columns) -> ParsedPage:
    """Say who did what to what."""
    action = list(map(_action, *page.texts("action_type", "operation_type", "object_type")))
    user, email, key_name = page.texts("user", "user_email", "api_key_name")
    target_type, target_id = page.texts("object_type", "object_id")
    org_name, project, project_name = page.texts("organization_name", "project", "project_name")
    return ParsedPage(
        action=action,
        actor=list(map(_actor, user, email, key_name)),
        target_type=target_type,
        target_id=target_id,
        org_name=org_name,
        project_id=project,
        project_name=project_name,
        message=messages(either(email, key_name, user), action, target_id),
    )
