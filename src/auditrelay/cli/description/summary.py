"""What a description says, in lines for people."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from auditrelay.cli.description.declared import secrets_lines, settings_lines, titled
from auditrelay.descriptions.load import Description
from auditrelay.descriptions.model import Feed, OAuth2Auth, Pages, Records, Time
from auditrelay.settings.values import format_duration


def summary(description: Description, width: int) -> Iterator[str]:
    """Yield the lines about *description*, of *width* characters at most where they are prose."""
    file = description.file
    yield f"{file.product} ({file.vendor}), by {file.evidence}, checked {file.checked}"
    for address in file.docs:
        yield f"  {address}"
    for title, sentences in (
        ("Needs", file.needs),
        ("Leaves out", file.leaves_out),
        ("Not proved", file.unsure),
    ):
        if sentences:
            yield from titled(title, (f"- {each}" for each in sentences), width)
    first = description.feed(description.feeds[0] if description.feeds else None)
    yield from titled("Settings", settings_lines(first.settings), width)
    yield from titled("Secrets", _secrets(first), width)
    reasons = defaults_with_reasons(description.path.read_text("utf-8-sig"))
    for name in description.feeds or (None,):
        yield from _feed(description, name, reasons, width)


def _secrets(feed: Feed) -> Iterator[str]:
    yield from secrets_lines(feed.secrets)
    if isinstance(feed.auth, OAuth2Auth):
        yield f"A token is taken from {feed.auth.token_url} ({feed.auth.grant})."


def _feed(
    description: Description, name: str | None, reasons: Mapping[str, list[str]], width: int
) -> Iterator[str]:
    feed = description.feed(name)
    own = description.file.feeds.get(name or "")
    title = "" if name is None else f" of the feed {name}"
    if own is not None:
        usual = ", which is read if none is named" if name == feed.default_feed else ""
        yield from titled(f"Feed {name}{usual}", iter([own.about] if own.about else []), width)
    yield from titled(f"Asks{title}", _asks(feed), width)
    if own is None or own.defaults is not None:
        found = reasons.get("defaults" if name is None else f"feeds.{name}.defaults", [])
    else:
        found = reasons.get("defaults", [])
    if found:
        yield from titled(f"Defaults{title}", iter(found), width)
    yield from titled(f"Actions{title}", _actions(feed.actions), width)


def _asks(feed: Feed) -> Iterator[str]:
    request = feed.request
    yield f"{request.method} {request.base_url}{request.path}"
    fixed = [f"{key} = {value}" for key, value in request.params.items()]
    if fixed:
        yield f"with {', '.join(fixed)}"
    yield _window(feed.time)
    yield _pages(feed.pages)
    yield _records(feed.records)


def _window(time: Time) -> str:
    if time.text is not None and time.at is not None:
        text = f"time: {time.text} in {time.at}, as {time.format}"
    elif time.start is None:
        text = "time: it has no filter; it is read from the newest record back"
    else:
        bounds = f"from {time.start}" + (f" to {time.end}" if time.end is not None else " on")
        text = f"time: {bounds}, as {time.format}"
    if time.axis == "recorded":
        text += "; of when the vendor recorded it"
    if time.longest is not None:
        text += f"; windows of {format_duration(time.longest)} at most"
    return text


_ENDS: Final = (
    ("more", "until {} is false"),
    ("count", "of which {} tells the number"),
    ("total", "until there are as many records as {} tells"),
)


def _pages(pages: Pages) -> str:
    if pages.kind == "none":
        return "pages: one reply"
    ends = [words.format(getattr(pages, key)) for key, words in _ENDS if getattr(pages, key)]
    if pages.until_empty:
        ends.append("until one is empty")
    if pages.kind in ("cursor", "url") and pages.more is None and not pages.until_empty:
        ends = [f"until {pages.from_} has nothing"]
    size = "" if pages.size is None else f", size in {pages.size}"
    most = "" if pages.largest is None else f", {pages.largest} at most"
    came = "" if pages.from_ is None else f" from {pages.from_}"
    went = "" if pages.to is None else f" to {pages.to}"
    return f"pages: {pages.kind}{came}{went}, {', '.join(ends)}{size}{most}"


def _records(records: Records) -> str:
    if records.no_id:
        known = "known by their content"
    else:
        paths = records.id_parts or records.id or ()
        known = f"known by {(' and ' if records.id_parts else ' or ').join(map(str, paths))}"
    at = f"at {records.at}" if records.at else "the reply itself"
    times = " or ".join(map(str, records.time))
    return f"records: {at}, {known}, time in {times} ({records.time_format})"


def _actions(actions: Mapping[str, Any]) -> Iterator[str]:
    for action, meaning in actions.items():
        if isinstance(meaning, dict):
            for word, inner in meaning.items():
                yield f"{action} with {word}: {inner}"
        else:
            yield f"{action}: {meaning}"


_TABLE: Final = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_LINE: Final = re.compile(r'^\s*(\w+\s*=\s*(?:"[^"]*"|\[[^\]]*\]|\d+))\s*(?:#\s*(.*))?$')


def defaults_with_reasons(text: str) -> dict[str, list[str]]:
    """
    Return the lines of each table of defaults in *text*, by its name: key, value and comment.

    The reasons are comments, which a reader of TOML does not keep.
    """
    found: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if head := _TABLE.match(line):
            table = head[1].replace(" ", "")
        elif (is_key := _LINE.match(line)) and table.split(".")[-1] == "defaults":
            reason = f": {is_key[2]}" if is_key[2] else ""
            found.setdefault(table, []).append(f"{is_key[1]}{reason}")
    return found
