"""What the tests of all sinks need: batches."""

from tests.support.batches import batch, items

__all__ = ["batch", "items"]
