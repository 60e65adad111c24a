"""What an operator sees of a running instance: report, findings, page."""
