"""
How many records the next page of a walk should have, and what to do about one that fails.

A usual walk asks for pages of one size, and what fails ends it. A fine one begins with one record,
doubles what works and halves what fails, down to the record that cannot be read.
"""

from typing import Final

from auditrelay.errors import Retryable, WalkBroken, may_be_due_to_size

MAX_IN_A_ROW: Final = 3
"""Records that are passed over next to each other; if there are more, it is not about records."""


class CursorPages:
    """Pages behind cursors, of at most *most* records; one that fails cannot be passed over."""

    def __init__(self, most: int, *, finely: bool) -> None:
        self.finely = finely
        self._most = most
        self.size = 1 if finely else most
        """Of the next page."""

    def read(self) -> None:
        """Learn that the page was read."""
        self.size = min(self.size * 2, self._most)

    def failed(self, error: Retryable | WalkBroken) -> None:
        """Make the page smaller, or raise *error* if it cannot be."""
        if not self.finely or self.size == 1 or not may_be_due_to_size(error):
            raise error
        self.size //= 2


class NumberedPages:
    """
    Pages counted from 1, of at most *most* records each.

    Where a page of some size begins, one of half the size does: so the sizes of a fine walk are
    powers of two.
    """

    def __init__(self, most: int, *, finely: bool) -> None:
        self._most = most
        self._finely = finely
        self._offset = 0
        self._in_a_row = 0
        self.size = 1 if finely else most
        """Of the next page."""
        self.passed_over = 0
        """How many records could not be read."""

    @property
    def offset(self) -> int:
        """How many records are before the next page."""
        return self._offset

    @property
    def number(self) -> int:
        """Of the next page."""
        return self._offset // self.size + 1

    def read(self) -> None:
        """Learn that the page was read."""
        self._in_a_row = 0
        self._go_on()

    def is_capped(self, count: int) -> bool:
        """
        Return whether a page of only *count* records, not the last, must be asked for again.

        The server's pages are smaller than the one that was asked for, so it began elsewhere. A
        usual walk has all its pages of that size.
        """
        if not self._finely or count >= self.size:
            return False
        self._most = max(1, count)
        while self.size > self._most:
            self.size //= 2
        return True

    def failed(self, error: Retryable | WalkBroken) -> None:
        """Make the page smaller or pass over its record, or raise *error* if that is no use."""
        if not self._finely or not may_be_due_to_size(error):
            raise error
        if self.size > 1:
            self.size //= 2
            return
        self._in_a_row += 1
        if self._in_a_row > MAX_IN_A_ROW:
            raise error
        self.passed_over += 1
        self._go_on()

    def _go_on(self) -> None:
        self._offset += self.size
        if self._finely:
            self.size = self._offset & -self._offset  # the largest that begins there
            while self.size > self._most:
                self.size //= 2


class OffsetPages:
    """Pages that begin behind so many records, of at most *most* records each, as they come."""

    def __init__(self, most: int, *, finely: bool) -> None:
        self._most = most
        self._finely = finely
        self._in_a_row = 0
        self.offset = 0
        """How many records are before the next page: those that came, not those asked for."""
        self.size = 1 if finely else most
        """Of the next page."""
        self.passed_over = 0
        """How many records could not be read."""

    def read(self, count: int) -> None:
        """Learn that the page was read, and had so many records."""
        self._in_a_row = 0
        self.offset += count
        self.size = min(self.size * 2, self._most)

    def failed(self, error: Retryable | WalkBroken) -> None:
        """Make the page smaller or pass over its record, or raise *error* if that is no use."""
        if not self._finely or not may_be_due_to_size(error):
            raise error
        if self.size > 1:
            self.size //= 2
            return
        self._in_a_row += 1
        if self._in_a_row > MAX_IN_A_ROW:
            raise error
        self.passed_over += 1
        self.offset += 1
