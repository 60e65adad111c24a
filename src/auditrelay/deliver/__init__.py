"""Deliver one sink's events out of the store, batch by batch, until each has a verdict."""
