"""A description of a made-up receiver, of which a test replaces a part."""

from pathlib import Path

from auditrelay.descriptions.receiver.load import Receiver, read

PARTS = {
    "top": """
receiver = "globex"
product = "Globex"
docs = ["https://docs.globex.example/intake"]
checked = 2026-03-01
evidence = "documentation"
""",
    "settings": """
[settings.site]
about = "The host."
example = "eu.globex.example"
pattern = '[a-z0-9.-]+'
""",
    "secrets": """
[secrets.token]
about = "The token."
""",
    "auth": """
[auth]
kind = "header"
prefix = "Bearer "
secret = "token"
""",
    "request": """
[request]
url = "https://{site}/v1/events"
""",
    "body": """
[body]
shape = "wrapped"
skeleton = '{"events": "$items"}'
""",
    "item": """
[item]
skeleton = '{"id": "$uid", "at": "$time", "event": "$event"}'
time_as = "epoch_ms"
""",
    "streams": "",
    "limits": """
[limits]
events = 100
bytes = 1_000_000
""",
    "age": "",
    "success": """
[success]
statuses = [200]
body = "json"
where = { ok = ["true"] }
""",
    "items": "",
    "count": "",
    "on": "",
    "wait": "",
    "key": "",
    "check": """
[check]
url = "https://{site}/v1/me"
statuses = [200]
""",
    "defaults": "",
    "examples": """
[[examples]]
status = 200
body = '{"ok": true}'
means = "done"

[[examples]]
status = 400
means = "split"
""",
}
"""The parts of its file. The keys at the top come first."""


def text(**changed: str) -> str:
    """Return the text of the file, with parts *changed*."""
    unknown = changed.keys() - PARTS.keys()
    assert not unknown, f"no parts: {unknown}"
    return "".join(f"{part}\n" for part in {**PARTS, **changed}.values())


def write(folder: Path, content: str, name: str = "globex.toml") -> Path:
    """Return a file in *folder* with *content*."""
    file = folder / name
    file.write_text(content, "utf-8")
    return file


def described(folder: Path, **changed: str) -> Receiver:
    """Return the description with parts *changed*."""
    return read(write(folder, text(**changed)))
