"""Initech's audit records, a vendor that does not exist."""

from msgspec import UNSET

from auditrelay.events.vendors import NO_ACTOR, Action, Columns, Documented, Field, ParsedPage

NAME = "Initech"
ID = "key"
ORGANISATION = None
TIME = "when"


class Record(Documented):
    """The documented fields of a record."""

    key: Field = UNSET
    when: Field = UNSET
    what: Field = UNSET


FIELDS = frozenset(Record.__struct_fields__)


def read(page: Columns) -> ParsedPage:
    """Say what was done."""
    [names] = page.texts("what")
    return ParsedPage(
        action=[
            Action(name or "unknown", None, "other", "other", "unknown", ("unknown_action",))
            for name in names
        ],
        actor=[NO_ACTOR] * len(page),
        message=[f"Initech: {name or 'unknown'}" for name in names],
    )
