"""Basic authentication (RFC 7617)."""

import base64


def basic(user: str, password: str) -> str:
    """Return the value of the header ``Authorization``."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
