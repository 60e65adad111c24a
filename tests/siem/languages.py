"""
The subset of the three query languages that the detections use: a conjunction of terms.

Anything else in a query is an error, not a guess. A term names a field and the values of
which it must have one, or none if the term is negated.
"""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

Fields = Mapping[str, list[str]]
"""The values of each field, as texts."""

_WORD = r"[\w:*.\-]+"
_KQL = re.compile(
    r'(?P<no>not )?(?P<field>[\w.]+): (?P<values>"[^"]*"|\("[^"]*"(?: or "[^"]*")*\))'
    r"(?: and (?=\S)|\Z)"
)
_SPL = re.compile(
    rf'(?P<no>NOT )?(?P<field>[\w.]+)(?:=(?P<values>"[^"]*"|{_WORD})'
    rf"| IN (?P<list>\({_WORD}(?:, {_WORD})*\)))(?: (?=\S)|\Z)"
)
_DATADOG = re.compile(
    r"(?P<no>-)?(?P<field>@?[\w.]+):(?P<values>[\w.]+|\(\w+(?: OR \w+)*\))(?: (?=\S)|\Z)"
)


class Term(NamedTuple):
    """A *field* that must, or if *negated* must not, have one of *values*."""

    field: str
    values: frozenset[str]
    negated: bool

    def holds(self, fields: Fields) -> bool:
        found = any(
            fnmatchcase(value, wanted)
            for value in fields.get(self.field, [])
            for wanted in self.values
        )
        return found != self.negated


def _terms(pattern: re.Pattern[str], between: str, query: str) -> list[Term]:
    terms: list[Term] = []
    done = 0
    while done < len(query):
        found = pattern.match(query, done)
        if found is None:
            raise ValueError(f"cannot read {query[done:]!r} in {query!r}")
        parts = found.groupdict()
        values = (parts["values"] or parts["list"]).strip("()").split(between)
        plain = frozenset(value.strip('"') for value in values)
        terms.append(Term(parts["field"], plain, parts["no"] is not None))
        done = found.end()
    if not terms:
        raise ValueError("a query without a term finds everything")
    return terms


def kql(query: str) -> list[Term]:
    """Parse a query of Kibana."""
    return _terms(_KQL, " or ", query)


def spl(search: str) -> list[Term]:
    """Parse a search of Splunk, up to the first pipe."""
    return _terms(_SPL, ", ", search.partition("|")[0].strip())


def datadog(query: str) -> list[Term]:
    """Parse a search of Datadog."""
    return _terms(_DATADOG, " OR ", query)


def matches(terms: list[Term], fields: Fields) -> bool:
    """Return whether all *terms* hold."""
    return all(term.holds(fields) for term in terms)


def flat(node: Any, *, list_mark: str = "", path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value in *node* with its dotted name, to which a list adds *list_mark*."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from flat(value, list_mark=list_mark, path=f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for value in node:
            yield from flat(value, list_mark=list_mark, path=path + list_mark)
    elif node is not None:
        yield path, str(node).lower() if isinstance(node, bool) else str(node)


def gathered(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the values of each name."""
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields
