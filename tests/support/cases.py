"""Many cases in one test, where a test of its own would cost more than the case."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def case(*what: object) -> Iterator[None]:
    """Name the case in what it raises, so that a failure says which one it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case {' / '.join(map(str, what))}")
        raise
