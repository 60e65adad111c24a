"""What a command ends with, and which error of a task group is shown."""

import pytest

from auditrelay.errors import (
    ConfigError,
    Locked,
    RelayError,
    Retryable,
    StateError,
    StoreFull,
    exit_status,
    first_of,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RelayError("x"), 1),
        (StoreFull("x"), 1),
        (Retryable("x", reason="timeout"), 1),
        (ConfigError("x"), 2),
        (StateError("x"), 3),
        (Locked("x"), 3),
    ],
)
def test_a_command_ends_with_the_status_of_its_error(error: RelayError, status: int) -> None:
    assert exit_status(error) == status


def test_the_first_error_of_a_task_group_is_found_however_deep_it_is() -> None:
    wanted = RelayError("first")
    inner = ExceptionGroup("inner", [wanted, StateError("second")])
    assert first_of(ExceptionGroup("outer", [inner, ConfigError("third")])) is wanted


def test_a_task_group_with_a_bug_in_it_is_raised_whole() -> None:
    group = ExceptionGroup("outer", [RelayError("expected"), KeyError("a bug")])
    with pytest.raises(ExceptionGroup) as caught:
        first_of(group)
    assert caught.value is group
