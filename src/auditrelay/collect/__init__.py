"""Collect: one source's windows, read page by page into the store."""
