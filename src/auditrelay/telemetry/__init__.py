"""Logs, metrics, and the scrubber that keeps secrets out of both."""
