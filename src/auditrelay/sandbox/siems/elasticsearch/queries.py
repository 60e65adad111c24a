"""The few Elasticsearch queries that a client needs to find and count its documents."""

from datetime import datetime
from typing import Any

from auditrelay.sandbox.stored import at_path


class UnknownQuery(Exception):  # an answer, not a bug of ours
    """A query that this double does not support; its name is the text."""


def matches(query: dict[str, Any], doc_id: str, source: dict[str, Any]) -> bool:  # noqa: PLR0911
    """
    Return whether a document satisfies *query*.

    Supported are match_all, ids, term, terms, exists, range and bool. Raises UnknownQuery.
    """
    if len(query) != 1:
        raise UnknownQuery(", ".join(query) or "empty")
    [(kind, body)] = query.items()
    match kind:
        case "match_all":
            return True
        case "ids":
            return doc_id in body["values"]
        case "bool":
            return _bool(body, doc_id, source)
        case "exists":
            return at_path(source, body["field"]) is not None
        case "term":
            [(field, wanted)] = body.items()
            wanted = wanted["value"] if isinstance(wanted, dict) else wanted
            return wanted in _values(field, doc_id, source)
        case "terms":
            [(field, wanted)] = body.items()
            return any(value in wanted for value in _values(field, doc_id, source))
        case "range":
            [(field, bounds)] = body.items()
            return any(_within(value, bounds) for value in _values(field, doc_id, source))
    raise UnknownQuery(kind)


def _bool(body: dict[str, Any], doc_id: str, source: dict[str, Any]) -> bool:
    def clauses_matched(name: str) -> list[bool]:
        clauses = body.get(name, [])
        clauses = clauses if isinstance(clauses, list) else [clauses]
        return [matches(clause, doc_id, source) for clause in clauses]

    should = clauses_matched("should")
    return (
        all(clauses_matched("filter"))
        and all(clauses_matched("must"))
        and not any(clauses_matched("must_not"))
        and (any(should) or not should or "filter" in body or "must" in body)
    )


def _values(field: str, doc_id: str, source: dict[str, Any]) -> list[Any]:
    if field == "_id":
        return [doc_id]
    value = at_path(source, field)
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _within(value: Any, bounds: dict[str, Any]) -> bool:
    number = _comparable(value)
    return all(
        {
            "gte": lambda bound: number >= bound,
            "gt": lambda bound: number > bound,
            "lte": lambda bound: number <= bound,
            "lt": lambda bound: number < bound,
        }[name](_comparable(bound))
        for name, bound in bounds.items()
        if name not in {"format", "time_zone", "boost"}
    )


def _comparable(value: Any) -> float:
    return (
        datetime.fromisoformat(value).timestamp() * 1000 if isinstance(value, str) else float(value)
    )
