"""What the tests of all sinks need: batches."""

from tests.support.batches import batch, items, noon

__all__ = ["batch", "items", "noon"]
