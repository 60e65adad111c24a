"""The contract of the store: small facets, each beside its callers, all fulfilled by one store."""

import inspect
from typing import Any

import pytest

from auditrelay.collect.evidence import Backfills, Evidence, Forwarded
from auditrelay.collect.ledger import Intake, KnownContents, Ledger, SourceStore
from auditrelay.deliver.spool import Spool
from auditrelay.service.store import (
    DeadLetters,
    EvidenceLog,
    OperatorStore,
    Registry,
    States,
    Store,
    Upkeep,
)
from auditrelay.store.sql.evidence_log import EvidenceLog as LogOfSqlite
from auditrelay.store.sql.known_contents import KnownContents as OfSqlite
from auditrelay.store.sql.store import SqlStore

FACETS = [
    Ledger,
    Intake,
    Forwarded,
    Backfills,
    Evidence,
    Spool,
    States,
    Registry,
    DeadLetters,
    OperatorStore,
    Upkeep,
]
WHOLES = [SourceStore, Store]
"""Facets added up, for those who hand them out."""


def members(facet: type) -> dict[str, Any]:
    """Return the methods and properties of *facet*, with those of the facets that it extends."""
    return {
        name: member
        for name in dir(facet)
        if not name.startswith("_")
        and (inspect.isfunction(member := getattr(facet, name)) or isinstance(member, property))
    }


@pytest.mark.parametrize("facet", FACETS, ids=lambda facet: facet.__name__)
def test_a_facet_has_at_most_eight_methods(facet: type) -> None:
    assert 1 <= len(members(facet)) <= 8


def test_delivering_sees_six_methods() -> None:
    assert len(members(Spool)) == 6


def test_the_whole_is_nothing_but_its_facets() -> None:
    parts = {name for facet in FACETS for name in members(facet)}
    assert members(Store).keys() == parts | {"under"}
    assert members(SourceStore).keys() == members(Ledger).keys() | members(Intake).keys()


@pytest.mark.parametrize("facet", [*FACETS, *WHOLES], ids=lambda facet: facet.__name__)
def test_sqlite_fulfils_it_with_the_same_arguments(facet: type) -> None:
    for name, member in members(facet).items():
        mine = inspect.getattr_static(SqlStore, name)
        assert type(mine) is type(member), name
        if inspect.isfunction(member):
            assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(member), name
            assert _arguments(mine) == _arguments(member), name


def test_sqlite_keeps_the_log_by_the_same_methods() -> None:
    for name, member in members(EvidenceLog).items():
        if inspect.isfunction(member):
            assert _arguments(getattr(LogOfSqlite, name)) == _arguments(member), name


def test_sqlite_knows_the_contents_of_records_by_the_same_methods() -> None:
    for name, member in members(KnownContents).items():
        assert _arguments(getattr(OfSqlite, name)) == _arguments(member), name


def _arguments(method: Any) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters]
