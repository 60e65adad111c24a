"""
What a native action means, by the tables of a description: exact texts, globs, and a second word.

Exact texts beat globs; among globs the one with the most literal characters counts, of two alike
the first. What is in no table is never a success, unless a field of the record says so.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from auditrelay.descriptions.model import Actions, EventPaths, Outcome
from auditrelay.events.classify import guess
from auditrelay.events.marks import UNKNOWN_ACTION
from auditrelay.events.vendors import Action, guessed_action

T = TypeVar("T")

_OTHERS: Final = "*"
"""In a table of outcomes or kinds: any text that is not named."""


class Meaning(NamedTuple):
    """A kind and a verb, and the outcome where no field tells."""

    kind: str
    verb: str
    outcome: Outcome | None = None


class Globs(Generic[T]):
    """A table from texts, in which ``*`` stands for any characters."""

    def __init__(self, table: Mapping[str, T]) -> None:
        self._exact = {text: value for text, value in table.items() if "*" not in text}
        globs = [text for text in table if "*" in text]
        globs.sort(key=lambda text: -len(text.replace("*", "")))  # stable: else the first
        self._globs = [(_pattern(text), table[text]) for text in globs]

    def __call__(self, text: str) -> T | None:
        """Return the value of what fits *text* best."""
        if text in self._exact:
            return self._exact[text]
        return next((value for fits, value in self._globs if fits(text)), None)


def _pattern(glob: str) -> Callable[[str], Any]:
    """Return what fits *glob*; possessive, so that no text makes it slow."""
    *inner, last = map(re.escape, glob.split("*"))
    first, *middle = inner
    found = "".join(f"(?>.*?{part})" for part in middle)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL).fullmatch


class Outcomes:
    """What the words of a record say of how it ended."""

    def __init__(self, event: EventPaths) -> None:
        self._words = event.outcomes
        self._others = event.outcomes.get(_OTHERS, "unknown")
        self._default = event.outcome_default

    def by_word(self, word: str | None) -> Outcome | None:
        """Return what *word* says: a text, or the JSON text of a number or a boolean."""
        return None if word is None else self._words.get(word, self._others)

    def of(self, word: str | None, known: Meaning) -> Outcome:
        """Return how an action of *known* meaning ended."""
        return self.by_word(word) or known.outcome or self._default or "unknown"


def reader(event: EventPaths, actions: Actions) -> Callable[..., Action]:
    """
    Return what gives a native action its meaning.

    Its arguments are the action, the text at ``event.refine``, the category, and the word for the
    outcome; each may be None. It keeps the last thousand answers.
    """
    table = Globs({name: _entry(value) for name, value in actions.items()})
    outcomes = Outcomes(event)

    def meaning(name: str, second: str | None) -> Meaning | None:
        entry = table(name)
        return entry(second or "") if isinstance(entry, Globs) else entry

    @lru_cache(maxsize=1024)
    def read(
        action: str | None, second: str | None, category: str | None, word: str | None
    ) -> Action:
        name = event.action_prefix + (action or "") or "unknown"
        shown = event.names.get(name, name)
        known = meaning(name, second)
        if known is None:
            return _unknown(event, shown, category, outcomes.by_word(word))
        return Action(shown, category, known.kind, known.verb, outcomes.of(word, known))

    return read


def _entry(value: str | dict[str, str]) -> Meaning | Globs[Meaning]:
    if isinstance(value, dict):
        return Globs({text: _meaning(each) for text, each in value.items()})
    return _meaning(value)


def _meaning(text: str) -> Meaning:
    """Return the meaning ``kind/verb`` or ``kind/verb/outcome``."""
    kind, verb, *outcome = text.split("/")
    return Meaning(kind, verb, cast("Outcome", outcome[0]) if outcome else None)


def _unknown(event: EventPaths, name: str, category: str | None, outcome: Outcome | None) -> Action:
    """Return what can be said of an action that is in no table."""
    if not event.guess:
        return Action(name, category, "other", "other", outcome or "unknown", (UNKNOWN_ACTION,))
    guessed = guess(name)
    action = guessed_action(name, category, guessed.kind, guessed)
    return action if outcome is None else action._replace(outcome=outcome)
