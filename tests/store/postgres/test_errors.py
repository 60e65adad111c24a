"""What an error of PostgreSQL means: each SQLSTATE, and what libpq says when it cannot connect."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Server
from tests.support.shared_state import connected

from auditrelay.errors import Fenced, RelayError, StateError, StoreFull, exit_status
from auditrelay.store.postgres.errors import Kind, kind_of, translate, words_of

pytestmark = pytest.mark.process

RAISE = "do $$ begin raise exception using errcode = '{}', message = 'so it is'; end $$"


@pytest.mark.parametrize(
    ("state", "kind", "meaning"),
    [
        ("AR001", Kind.FENCED, Fenced),
        ("40001", Kind.AGAIN, StateError),
        ("40P01", Kind.AGAIN, StateError),
        ("55P03", Kind.AGAIN, StateError),
        ("57014", Kind.AGAIN, StateError),
        ("08006", Kind.LOST, StateError),
        ("08P01", Kind.LOST, StateError),
        ("25006", Kind.LOST, StateError),
        ("53300", Kind.LOST, StateError),
        ("57P01", Kind.LOST, StateError),
        ("57P02", Kind.LOST, StateError),
        ("57P03", Kind.LOST, StateError),
        ("53100", Kind.FULL, StoreFull),
        ("53200", Kind.FULL, StoreFull),
        ("53400", Kind.FULL, StoreFull),
        ("54000", Kind.FULL, StoreFull),
        ("28000", Kind.REFUSED, StateError),
        ("28P01", Kind.REFUSED, StateError),
        ("3D000", Kind.REFUSED, StateError),
        ("42501", Kind.REFUSED, StateError),
        ("42P01", Kind.REFUSED, StateError),
        ("0A000", Kind.REFUSED, StateError),
        ("XX001", Kind.CORRUPT, StateError),
        ("XX002", Kind.CORRUPT, StateError),
        ("58030", Kind.CORRUPT, StateError),
        ("42601", Kind.BUG, psycopg.errors.SyntaxError),
        ("23505", Kind.BUG, psycopg.errors.UniqueViolation),
        ("22021", Kind.BUG, psycopg.errors.CharacterNotInRepertoire),
        ("22P05", Kind.BUG, psycopg.errors.UntranslatableCharacter),
        ("XX000", Kind.BUG, psycopg.errors.InternalError_),
    ],
)
def test_each_state_has_its_kind_and_its_meaning(
    database: str, state: str, kind: Kind, meaning: type[Exception]
) -> None:
    with connected(database) as db:
        db.begin(write=False)
        db.execute(RAISE.format(state))
        with pytest.raises(psycopg.Error) as caught:
            db.commit()
        db.roll_back()
    assert kind_of(caught.value) is kind
    assert type(translate(caught.value)) is meaning
    assert "so it is" in str(translate(caught.value))


def test_an_error_is_shown_without_its_details(database: str) -> None:
    with connected(database) as db:
        db.begin(write=True)
        for _ in range(2):
            db.execute("insert into meta (name, value) values ('secret', 1)")
        with pytest.raises(psycopg.Error) as caught:
            db.commit()
    assert "secret" in str(caught.value)
    assert "secret" not in words_of(caught.value)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (lambda server: server.address("there_is_none"), Kind.REFUSED),
        (lambda server: server.address().replace("postgres@", "stranger@"), Kind.REFUSED),
        (lambda server: server.address(sslmode="require"), Kind.REFUSED),
        (lambda _: "postgresql://postgres@127.0.0.1:1/postgres", Kind.LOST),
        (lambda _: "postgresql://postgres@%2Fno%2Fsuch%2Ffolder/postgres", Kind.LOST),
    ],
)
def test_who_is_not_let_in_has_to_change_something(
    postgres: Server, address: Callable[[Server], str], kind: Kind
) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(address(postgres))
    assert kind_of(caught.value) is kind
    meaning = translate(caught.value)
    assert isinstance(meaning, RelayError)
    assert exit_status(meaning) == 3
    assert "\n" not in str(meaning)


def test_a_closed_connection_is_a_lost_one(database: str) -> None:
    with connected(database) as db:
        db.close()
        with pytest.raises(psycopg.Error) as caught:
            db.begin(write=False)
    assert kind_of(caught.value) is Kind.LOST


def test_what_psycopg_itself_refuses_is_a_bug() -> None:
    error: Any = psycopg.ProgrammingError("cannot adapt type")
    assert kind_of(error) is Kind.BUG
    assert translate(error) is error
