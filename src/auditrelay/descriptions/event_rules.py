"""What the mapping of a description says about itself: paths, outcomes and the table of actions."""

import re
from collections.abc import Iterator
from typing import Final, get_args

from auditrelay.descriptions.draft import Part
from auditrelay.descriptions.model import Actions, ActorPaths, ChangePaths, EventPaths, Outcome
from auditrelay.descriptions.tables import Problem
from auditrelay.events.classify import KINDS, VERBS
from auditrelay.settings.wording import KeyPath, suggestion

_OUTCOMES: Final = get_args(Outcome)


def event_problems(part: Part) -> Iterator[Problem]:
    """Yield what is wrong with the mapping of *part*."""
    if part.event is not None:
        yield from _event(part.at["event"], part.event)
    has_refine = part.event is None or part.event.refine is not None
    at = part.at["actions"]
    for action, meaning in part.actions.items():
        if isinstance(meaning, dict):
            if not has_refine:
                yield (
                    (*at, action),
                    "is a table, and event.refine does not say what to look up in it",
                )
            for word, inner in meaning.items():
                yield from _meaning((*at, action, word), inner)
        else:
            yield from _meaning((*at, action), meaning)
        if not action.strip("*"):
            yield (
                (*at, action),
                "would hide that an action is unknown; leave it out (event.guess decides)",
            )
    yield from _hidden(at, part.actions)


def _meaning(at: KeyPath, text: str) -> Iterator[Problem]:
    """Yield what is wrong with ``kind/verb`` or ``kind/verb/outcome``."""
    kind, *rest = text.split("/")
    if len(rest) not in (1, 2):
        yield at, f'"{text}" is not kind/verb or kind/verb/outcome, such as "user/create"'
        return
    for what, word, known in (
        ("kind", kind, KINDS),
        ("verb", rest[0], VERBS),
        ("outcome", rest[-1] if len(rest) == 2 else "unknown", _OUTCOMES),
    ):
        if word not in known:
            hint = suggestion(word, known)
            yield at, f'there is no {what} "{word}"{hint}'


def _hidden(at: KeyPath, actions: Actions) -> Iterator[Problem]:
    """Yield each glob that another one always beats: with as many letters, and standing first."""
    by_letters: dict[str, list[str]] = {}
    for action in actions:
        if "*" not in action:
            continue
        first = by_letters.setdefault(action.replace("*", ""), [])
        other = next((each for each in first if _includes(each, action)), None)
        if other is not None:
            yield (
                (*at, action),
                f'can never be chosen: "{other}" stands before it and fits all that it fits',
            )
        first.append(action)


def _includes(glob: str, other: str) -> bool:
    """Return whether *glob* fits every text that the glob *other* fits."""
    shape = ".*".join(re.escape(part) for part in glob.split("*"))
    # A letter that is in neither stands for whatever a star of the other takes.
    return re.fullmatch(shape, other.replace("*", "\0"), re.DOTALL) is not None


def _event(at: KeyPath, event: EventPaths) -> Iterator[Problem]:
    if event.action is not None and event.action_parts is not None:
        yield (*at, "action_parts"), "excludes action: leave one of them out"
    if event.action is None and event.action_parts is None and not event.action_prefix:
        yield at, "does not say what happened: give action, action_parts or action_prefix"
    if event.outcomes and event.outcome is None:
        yield (*at, "outcomes"), "is looked up by event.outcome, which is missing"
    for number, actor in enumerate(event.actor):
        yield from _actor((*at, "actor", number), actor)
    for number, target in enumerate(event.target):
        where = (*at, "target", number)
        if not (target.id or target.name or target.email):
            yield where, "finds nothing: give id, name or email"
        if target.type is not None and target.type_is is not None:
            yield where, "type_is excludes type: leave one of them out"
    if event.changes is not None:
        yield from _changes((*at, "changes"), event.changes)


def _actor(at: KeyPath, actor: ActorPaths) -> Iterator[Problem]:
    if not (actor.id or actor.name or actor.email):
        yield at, "finds nothing: give id, name or email"
    if actor.kind is None and actor.type is None:
        yield at, "does not say what acted: give kind, or type and kinds"
    elif actor.kind is not None:
        for key in ("type", "kinds"):
            if getattr(actor, key):
                yield (*at, key), "has no use with kind, which is always the same"
    elif not actor.kinds:
        yield (*at, "kinds"), "is missing: the table from the texts at type to kinds of actors"


def _changes(at: KeyPath, changes: ChangePaths) -> Iterator[Problem]:
    if changes.before is None and changes.after is None:
        yield at, "finds nothing: give before and after"
    if changes.list is not None and changes.field is None:
        yield (*at, "field"), "is missing: it names each element of the list"


def event_notes(part: Part) -> Iterator[Problem]:
    """Yield what works in the mapping of *part*, and was hardly meant."""
    at = part.at["actions"]
    by_case: dict[str, str] = {}
    for action in part.actions:
        twin = by_case.setdefault(action.casefold(), action)
        if twin != action:
            yield (*at, action), f'differs from "{twin}" only in case'
    tables = any(isinstance(meaning, dict) for meaning in part.actions.values())
    if part.event is not None and part.event.refine is not None and not tables:
        yield (*part.at["event"], "refine"), "has no use: no table in actions is looked up by it"
