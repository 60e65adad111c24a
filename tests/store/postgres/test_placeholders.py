"""SQL with the placeholders of SQLite, in the form of PostgreSQL."""

import pytest

from auditrelay.store.postgres.placeholders import statement


@pytest.mark.parametrize(
    ("sql", "written", "names", "number"),
    [
        ("select 1", "select 1", None, 0),
        ("a = ? and b = ?", "a = $1 and b = $2", None, 2),
        ("a = ?2 and b = ?1 and c = ?2", "a = $2 and b = $1 and c = $2", None, 2),
        ("a = ?3 and b = ?", "a = $3 and b = $4", None, 4),
        (
            ":end < :start or :end = 1",
            "$1 < $2 or $1 = 1",
            ("end", "start"),
            2,
        ),
        ("?::bigint, x::text", "$1::bigint, x::text", None, 1),
        (":a::text", "$1::text", ("a",), 1),
        ("'?' || ':a' || 'it''s ?' || ?", "'?' || ':a' || 'it''s ?' || $1", None, 1),
        ('"a?" = ? -- really? :no\n and b = ?', '"a?" = $1 -- really? :no\n and b = $2', None, 2),
        ("a like '%x' and b % 2 = ?", "a like '%x' and b % 2 = $1", None, 1),
    ],
)
def test_placeholders_are_numbered_and_everything_else_stays(
    sql: str, written: str, names: tuple[str, ...] | None, number: int
) -> None:
    assert statement(sql) == (written.encode(), names, number)


def test_names_and_numbers_in_one_statement_are_refused() -> None:
    with pytest.raises(ValueError, match="names and with numbers"):
        statement("a = ? and b = :b")
