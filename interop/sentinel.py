"""
Analyse the KQL of siem/sentinel by Microsoft's own parser of the language, which the portal uses.

There is no Sentinel to be had, and no program that runs KQL as it does. But the parser knows every
function and operator, and says of each name whether it is a column of the tables in the template.
"""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from siem.sentinel.template import template
from tests.siem.seen import SIEM

from interop.findings import Findings
from interop.receiver import HERE, Missing

_FOLDER: Final = HERE / "sentinel"
_TARGET: Final = _FOLDER / "target"

_GIVEN: Final = {
    "DCRLogErrors": "(TimeGenerated:datetime, InputStreamId:string, OperationName:string, "
    "Message:string, _ResourceId:string)"
}
"""A table of Microsoft's that the queries read (learn.microsoft.com/azure/azure-monitor/reference/
tables/dcrlogerrors)."""


def build() -> None:
    """Fetch the parser."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Missing(f"there is no {program} on the PATH: install Node.js, 18 or newer")
    _TARGET.mkdir(exist_ok=True)
    for name in ("package.json", "analyse.cjs"):
        shutil.copy(_FOLDER / name, _TARGET)
    if not (_TARGET / "node_modules").exists():
        words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run([*words, "--no-package-lock"], "")


def _run(words: list[str], text: str) -> str:
    done = subprocess.run(
        words, cwd=_TARGET, check=False, capture_output=True, text=True, input=text
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise Missing(f"{' '.join(words)} in interop/sentinel/target failed:\n{said}")
    return done.stdout


async def prove(findings: Findings) -> None:
    """Analyse each function, as the template has it, and each query."""
    await asyncio.to_thread(_prove, findings)


def _prove(findings: Findings) -> None:
    build()
    tables, texts = dict(_GIVEN), {}
    for resource in template()["resources"]:
        properties = resource["properties"]
        if resource["type"].endswith("/tables"):
            schema = properties["schema"]
            tables[schema["name"]] = _schema(schema["columns"])
        elif resource["type"].endswith("/savedSearches"):
            declared = properties.get("functionParameters")
            head = f"declare query_parameters({declared});\n" if declared else ""
            texts[f"function {properties['displayName']}"] = head + properties["query"]
        elif resource["type"].endswith("/scheduledQueryRules"):
            texts["alert"] = _of_alert(properties)
    for path in sorted(Path(SIEM, "sentinel", "queries").iterdir()):
        texts[f"query {path.stem}"] = path.read_text("utf-8")
    wrong = "AuditRelay_CL | where Unheard == 1"
    found = _analysed(tables, {**texts, "wrong": wrong})
    for name in texts:
        findings.none(f"the KQL of {name} has no error", found[name])
    findings.check("an unknown column is an error", ok=bool(found["wrong"]), seen=found["wrong"])


def _analysed(tables: dict[str, str], texts: dict[str, str]) -> dict[str, list[str]]:
    given = json.dumps({"tables": tables, "texts": texts})
    found: dict[str, list[str]] = json.loads(_run(["node", "analyse.cjs"], given))
    return found


def _schema(columns: list[dict[str, str]]) -> str:
    parts = [f"{each['name']}:{each['type'].lower()}" for each in columns]
    return f"({', '.join(parts)}, _ResourceId:string)"


def _of_alert(properties: dict[str, Any]) -> str:
    """Return the query of the alert, with the id of a rule filled in."""
    expression: str = properties["criteria"]["allOf"][0]["query"]
    quoted = re.match(r"\[format\('(.*)', resourceId\(", expression)
    assert quoted is not None, expression
    return quoted[1].replace("''", "'").replace("{0}", "/subscriptions/s/rule")
