"""One HTTP peer: requests, replies, retries, rate, TLS."""
