"""Doubles of the SIEM intakes."""
