"""What a SIEM has to know before the first event arrives."""
