"""What the fuzzing needs: batches."""

from tests.support.batches import batch

__all__ = ["batch"]
