"""A description of a made-up vendor, of which a test replaces a part."""

from pathlib import Path

from auditrelay.descriptions.load import Description, read

PARTS = {
    "top": """
vendor = "acme"
product = "Acme"
docs = ["https://docs.acme.example/audit"]
checked = 2026-03-01
evidence = "documentation"
""",
    "settings": """
[settings.domain]
about = "The organisation's domain."
example = "eu.acme.example"
pattern = '[a-z0-9.-]+'
scope = true
""",
    "secrets": """
[secrets.token]
about = "The token."
""",
    "auth": """
[auth]
kind = "header"
prefix = "Token "
secret = "token"
""",
    "request": """
[request]
base_url = "https://{domain}"
path = "/v1/logs"
params = { sort = "asc" }
""",
    "time": """
[time]
start = "query:since"
end = "query:until"
""",
    "pages": """
[pages]
kind = "cursor"
from = "body:next"
to = "query:cursor"
size = "query:limit"
largest = 100
""",
    "records": """
[records]
at = "items"
id = "id"
time = "at"
""",
    "limits": "",
    "errors": "",
    "defaults": "",
    "event": """
[event]
action = "action"
outcome = "result"
outcomes = { ok = "success", "*" = "failure" }

[[event.actor]]
kind = "user"
id = "who.id"
""",
    "actions": """
[actions]
"user.create" = "user/create"
"user.*" = "user/update"
""",
    "feeds": "",
}
"""The parts of its file. The keys at the top come first."""


def text(**changed: str) -> str:
    """Return the text of the file, with parts *changed*."""
    unknown = changed.keys() - PARTS.keys()
    assert not unknown, f"no parts: {unknown}"
    return "".join(f"{part}\n" for part in {**PARTS, **changed}.values())


def write(folder: Path, content: str, name: str = "acme.toml") -> Path:
    """Return a file in *folder* with *content*."""
    file = folder / name
    file.write_text(content, "utf-8")
    return file


def described(folder: Path, **changed: str) -> Description:
    """Return the description with parts *changed*."""
    return read(write(folder, text(**changed)))
