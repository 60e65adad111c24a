"""Batches, as for every sink."""

from tests.support.batches import batch, items

__all__ = ["batch", "items"]
