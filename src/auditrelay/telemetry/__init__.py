"""Logs, metrics, humanized values, and the scrubber that removes secrets."""
