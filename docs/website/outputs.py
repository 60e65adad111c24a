"""The reference of what ``--json`` prints: made of its structs, and of outputs that are tested."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from auditrelay.collect.verify import VerifyReport

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = ROOT / "tests" / "status" / "golden"

_HEAD: Final = """\
# JSON outputs

What scripts can rely on: a key that is here stays. More may be added, so ignore what you do not
know. Times are ISO 8601 in UTC. Results go to stdout, logs to stderr; the
[exit status](operations.md#exit-status) says whether it worked.

## `auditrelay status --json`

Also `GET /api/status` of the status port, which has what only a running service knows in addition.
[The JSON Schema](status.schema.json).
"""
_OTHERS: Final = """\
## Others

`evidence check --json`: [evidence](evidence.md). `description list --json`, `schema` and
`description schema` are made for editors and tools.
"""


def json_outputs() -> str:
    """Return the page of every JSON output."""
    status = json.loads((ROOT / "docs" / "status.schema.json").read_text("utf-8"))
    lines = [
        _HEAD,
        *_structs(status),
        "",
        *_example("status of an instance that is well", "healthy.status.json"),
        "",
        "## `auditrelay coverage --json`",
        "",
        "With `SOURCE` one object, without it a list of them.",
        "",
        *_example("coverage of a source with a gap", "coverage-of-one.json"),
        "",
        "## `auditrelay verify --json`",
        "",
        *_structs(msgspec.json.schema(VerifyReport)),
        "",
        "## `auditrelay dead-letters list --json`",
        "",
        "A list; `show ID` prints one, with its `event`.",
        "",
        *_example("dead letters of a source", "dead-letters-of-one.json"),
        "",
        _OTHERS,
    ]
    return "\n".join(lines)


def _structs(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of the keys of each object of *schema*, the outermost first."""
    first = schema["$ref"].rpartition("/")[2]
    every = schema["$defs"]
    for name in dict.fromkeys([first, *every]):
        properties = every[name].get("properties")
        if not properties:
            continue
        if name != first:
            yield from ("", f"`{name}`:", "")
        yield "| key | type | meaning |"
        yield "| --- | --- | --- |"
        for key, value in properties.items():
            yield f"| `{key}` | {_type(value)} | {_cell(value.get('description', ''))} |"


def _type(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        return f"`{value['$ref'].rpartition('/')[2]}`"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(each) for each in value["anyOf"]))
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items') or {})}"
    if value.get("format") == "date-time":
        return "time"
    return str(value.get("type", "any"))


def _cell(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line.replace("``", "`")


def _example(title: str, name: str) -> Iterator[str]:
    text = (GOLDEN / name).read_text("utf-8").strip()
    yield f"<details><summary>Example: {title}</summary>"
    yield from ("", "```json", text, "```", "", "</details>")
