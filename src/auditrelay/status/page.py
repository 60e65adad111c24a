"""The status page: one screen that answers whether anything is wrong. Plain HTML, no script."""

from collections.abc import Iterable
from datetime import timedelta
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8886;
  vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto }
.good::before { content: "\\25cf "; color: #2a8f43 }
.bad::before { content: "\\25b2 "; color: #d0342c }
"""


def page(status: dict[str, Any], unready: Iterable[str]) -> str:
    """Return the page that shows *status*, as ``status --json`` prints it, and what is amiss."""
    reasons = list(unready)
    if reasons:
        verdict = "".join(f'<li class="bad">{escape(reason)}</li>' for reason in reasons)
        verdict = f"<ul>{verdict}</ul>"
    else:
        verdict = '<p class="good">Everything works.</p>'
    spool = status["spool"]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>auditrelay</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="10"><style>{_STYLE}</style></head><body>
<h1>auditrelay <small>{escape(status["version"])}</small></h1>
{verdict}
<h2>Sources</h2><div class="scroll"><table>
<tr><th>source<th>type<th>state<th>read up to<th>lag<th>last event<th>not read<th>last error</tr>
{"".join(map(_source, status["sources"]))}</table></div>
<h2>Sinks</h2><div class="scroll"><table>
<tr><th>sink<th>type<th>state<th>backlog<th>oldest waits<th>dead letters<th>last error</tr>
{"".join(map(_sink, status["sinks"]))}</table></div>
<p>Spool: {spool["bytes"]:,} of {spool["max_bytes"]:,} bytes.</p>
</body></html>
"""


def _source(row: dict[str, Any]) -> str:
    return _row(
        row,
        _cell(row["last_fetched_timestamp"] or "never"),
        _cell(_words(row["lag_seconds"]), number=True),
        _cell(row["last_event_at"] or "none yet"),
        _cell(_words(row["gap_seconds"]), number=True),
    )


def _sink(row: dict[str, Any]) -> str:
    return _row(
        row,
        _cell(f"{row['backlog_events']:,}", number=True),
        _cell(_words(row["oldest_undelivered_seconds"]), number=True),
        _cell(f"{row['dead_letters']:,}", number=True),
    )


def _row(row: dict[str, Any], *cells: str) -> str:
    if row.get("leftover"):
        state = '<td class="bad">not in the configuration'
    elif not row["enabled"]:
        state = "<td>disabled"
    elif row["held"]:
        state = '<td class="bad">held'
    elif row.get("silent"):
        state = '<td class="bad">silent'
    else:
        state = '<td class="good">up' if row["up"] else '<td class="bad">not up'
    return (
        f"<tr><th>{escape(row['name'])}{_cell(row['type'] or '')}{state}"
        f"{''.join(cells)}{_cell(row['last_error'] or '')}</tr>\n"
    )


def _cell(text: str, *, number: bool = False) -> str:
    return f"<td{' class=number' if number else ''}>{escape(text)}"


def _words(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return str(timedelta(seconds=round(seconds)))
