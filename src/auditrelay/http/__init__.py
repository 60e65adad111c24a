"""HTTP to one peer: requests, replies, retries, the rate limit, TLS."""
