"""
Write the pages of the vendors and receivers that are described in files, and their README rows.

``make generate`` runs it. What a page says is in the file; ``tests/descriptions`` has the
test that the two agree.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from auditrelay import sinks, sources
from auditrelay.cli.description.receivers import meanings
from auditrelay.cli.description.summary import defaults_with_reasons
from auditrelay.descriptions import shipped, shipped_receivers
from auditrelay.descriptions.example import example
from auditrelay.descriptions.load import Description, named
from auditrelay.descriptions.model import Actions, OAuth2Auth
from auditrelay.descriptions.receiver.example import example as receiver_example
from auditrelay.descriptions.receiver.load import named as receiver_named

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
FOLDER: Final = ROOT / "docs" / "vendors"
RECEIVERS: Final = ROOT / "docs" / "sinks"

_WIDTH: Final = 118
_FILES: Final = "../../src/auditrelay/descriptions/vendors"


def page(name: str) -> str:
    """Return the page of the shipped vendor *name*."""
    description = named(name)
    file = description.file
    lines = [
        f"# {file.product}",
        "",
        f"<!-- Made by `make generate` of src/auditrelay/descriptions/vendors/{name}.toml -->",
        "",
        *_carried(description),
        "",
        "```toml",
        *_tables(description),
        "```",
        "",
        *_keys(description),
    ]
    for title, sentences in (
        ("You need", file.needs),
        ("What it leaves out", file.leaves_out),
        ("What is not proved, and what happens then", (*file.unsure, *_unproved(description))),
    ):
        if sentences:
            lines += ["", f"## {title}", "", *_items(sentences)]
    if file.errors.hints:
        lines += ["", "## If it refuses", "", "| status | what to do |", "| --- | --- |"]
        lines += [f"| {status} | {_cell(text)} |" for status, text in file.errors.hints.items()]
    lines += ["", "## Defaults", "", *_defaults(description)]
    lines += ["", "## Actions", "", *_actions(description)]
    lines += ["", "## Sources", "", *_sources(description)]
    return "\n".join([*lines, ""])


def _carried(description: Description) -> Iterator[str]:
    file = description.file
    name = file.vendor
    carried = (
        f"{len(file.feeds)} lists, its *feeds*, each a source of its own"
        if file.feeds
        else "the audit log"
    )
    yield from _wrapped(
        f"Read as [`{name}.toml`]({_FILES}/{name}.toml) describes it "
        f"([the language](../descriptions.md)): {carried}. {file.about}".rstrip()
    )
    yield from _wrapped(f"To see it without an account: `auditrelay demo --vendor {name}`.")
    if file.feeds:
        yield ""
        for name, feed in file.feeds.items():
            usual = " It is the one that is read if the source names none."
            about = f"`{name}`: {feed.about or 'its audit log.'}"
            yield from _items([about + (usual if name == file.default_feed else "")])


def _tables(description: Description) -> Iterator[str]:
    """Yield a table of the configuration for each feed, without comments but optional keys."""
    name = description.file.vendor
    shown = [
        line
        for line in example(name, description).splitlines()
        if line and (not line.startswith("#") or re.match(r"# \w+ = ", line))
    ]
    if not description.feeds:
        yield from shown
        return
    for number, feed in enumerate(description.feeds):
        if number:
            yield ""
        for line in shown:
            if line.startswith("["):
                yield f"[sources.acme-{name.replace('_', '-')}-{feed.replace('_', '-')}]"
            else:
                yield f'feed = "{feed}"' if line.startswith("feed = ") else line


def _keys(description: Description) -> Iterator[str]:
    file = description.file
    yield "| key | what it is |"
    yield "| --- | --- |"
    for key, setting in file.settings.items():
        about = setting.about
        if setting.choices is not None:
            about += f" One of {', '.join(f'`{each}`' for each in setting.choices)}."
        elif setting.default is None:
            about += f" For example `{setting.example}`."
        if setting.default is not None:
            about += f" Default: `{setting.default or '(empty)'}`."
        yield f"| `{key}` | {_cell(about)} |"
    for key, secret in file.secrets.items():
        about = secret.about + ("" if secret.default is None else " It may be left out.")
        yield f"| `{key}`, a secret | {_cell(about)} |"
    if isinstance(file.auth, OAuth2Auth):
        about = f"Where tokens are asked for. Default: `{file.auth.token_url}`."
        yield f"| `token_url` | {_cell(about)} |"
    bases = {description.feed(feed).request.base_url for feed in description.feeds or (None,)}
    if len(bases) == 1:
        yield f"| `base_url` | The API's address. Default: `{bases.pop()}`. |"


def _unproved(description: Description) -> Iterator[str]:
    file = description.file
    if file.evidence == "documentation":
        yield (
            "The file was compared with the documentation, not with a live account. "
            "`auditrelay check --thorough` proves with yours what can be proved: bounds, pages, "
            "their end, ids and times."
        )
    if any(description.feed(feed).time.axis == "recorded" for feed in description.feeds or (None,)):
        yield (
            "The vendor's filter speaks of when it *recorded* an event, not of when that happened: "
            "`coverage` and `verify` count by that time."
        )


_USUAL: Final = "those of [every source](../../config.example.toml)"


def _defaults(description: Description) -> Iterator[str]:
    reasons = defaults_with_reasons(description.path.read_text("utf-8"))
    feeds = description.file.feeds
    own = [name for name, feed in feeds.items() if feed.defaults is not None]
    tables: dict[str, list[str]] = {}
    if len(own) < len(feeds) or not feeds:
        tables["" if not own else "The other feeds"] = reasons.get("defaults", [])
    for name in own:
        tables[f"Feed `{name}`"] = reasons.get(f"feeds.{name}.defaults", [])
    for title, found in tables.items():
        if title:
            yield from ([f"{title}:", ""] if title == next(iter(tables)) else ["", f"{title}:", ""])
        if not found:
            yield f"All are {_USUAL}."
            continue
        yield "| key | value | why |"
        yield "| --- | --- | --- |"
        for each in found:
            setting, _, reason = each.partition(": ")
            key, _, value = setting.partition(" = ")
            yield f"| `{key.strip()}` | `{value.strip()}` | {_cell(reason)} |"
    if any(tables.values()):
        yield ""
        yield f"All others are {_USUAL}."


def _actions(description: Description) -> Iterator[str]:
    """Yield the actions by what they mean, each table of actions once."""
    by_table: dict[int, tuple[Actions, list[str]]] = {}
    for name in description.feeds or ("",):
        actions = description.feed(name or None).actions
        by_table.setdefault(id(actions), (actions, []))[1].append(name)
    event = description.feed(description.feeds[0] if description.feeds else None).event
    yield from _wrapped(
        "What each native action becomes, a [kind and a verb](../kinds-and-verbs.md); `*` stands "
        "for any text. One that is not here "
        + (
            "is guessed by its words, and marked."
            if event.guess
            else "is forwarded with the verb `other`, and marked `unknown_action`."
        )
    )
    for actions, names in by_table.values():
        meant = _by_meaning(actions)
        count = sum(len(each) for each in meant.values())
        title = f"{count} action{'s' if count != 1 else ''}"
        if len(by_table) > 1:
            title += f" of {' and '.join(names)}"
        yield from ["", f"<details><summary>{title}</summary>", ""]
        yield "| kind/verb | native actions |"
        yield "| --- | --- |"
        for meaning, natives in meant.items():
            yield f"| `{meaning}` | {', '.join(natives)} |"
        yield from ["", "</details>"]


def _by_meaning(actions: Actions) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for native, meaning in actions.items():
        if isinstance(meaning, str):
            found.setdefault(meaning, []).append(_code(native))
            continue
        for word, inner in meaning.items():
            found.setdefault(inner, []).append(f"{_code(native)} with {_code(word)}")
    return dict(sorted(found.items()))


def _sources(description: Description) -> Iterator[str]:
    file = description.file
    how = "their documentation" if file.evidence == "documentation" else "a live account"
    yield f"Last compared with {how} on {file.checked}:"
    yield ""
    yield from (f"* <{address}>" for address in file.docs)


# --- receivers ------------------------------------------------------------------------------------


def receiver_page(name: str) -> str:
    """Return the page of the shipped receiver *name*."""
    receiver = receiver_named(name)
    file = receiver.file
    where = f"../../src/auditrelay/descriptions/receivers/{name}.toml"
    shown = [
        line
        for line in receiver_example(name, receiver).splitlines()
        if line and (not line.startswith("#") or re.match(r"# \w+ = ", line))
    ]
    lines = [
        f"# {file.product}",
        "",
        f"<!-- Made by `make generate` of src/auditrelay/descriptions/receivers/{name}.toml -->",
        "",
        *_wrapped(
            f"Written to as [`{name}.toml`]({where}) describes it "
            "([the language](../receivers.md)). It was compared with the documentation, and is "
            "tested against a double that refuses what the documentation says that the product "
            "refuses; no account was there to try it: begin with one quiet source."
        ),
        "",
        "```toml",
        *shown,
        "```",
        "",
        "```sh",
        f"auditrelay init --sink {name}    # writes that table into a configuration",
        "auditrelay check --offline",
        "auditrelay check --send-test-event",
        "```",
        "",
        "| key | what it is |",
        "| --- | --- |",
    ]
    for key, setting in file.settings.items():
        about = setting.about
        if setting.choices is not None:
            about += f" One of {', '.join(f'`{each}`' for each in setting.choices)}."
        if setting.default is not None:
            about += f" Default: `{setting.default or '(empty)'}`."
        lines.append(f"| `{key}` | {_cell(about)} |")
    for key, secret in file.secrets.items():
        about = secret.about + ("" if secret.default is None else " It may be left out.")
        lines.append(f"| `{key}`, a secret | {_cell(about)} |")
    lines += ["", "## You need", "", *_items(file.needs)]
    lines += ["", "## What is not proved, and what happens then", "", *_items(file.unsure)]
    lines += ["", "## What its answers are taken for", "", *_answers(name)]
    lines += ["", "## Duplicates", "", f"They have the same uid: {_code(_searched(name))}."]
    lines += [
        "",
        "## Sources",
        "",
        f"Last compared with their documentation on {file.checked}:",
        "",
    ]
    return "\n".join([*lines, *(f"* <{address}>" for address in file.docs), ""])


def _answers(name: str) -> Iterator[str]:
    yield "| answer | taken for |"
    yield "| --- | --- |"
    for line in dict.fromkeys(meanings(receiver_named(name).file)):
        answer, _, word = line.rpartition(": ")
        yield f"| {_code(answer)} | {word} |"


def _searched(name: str) -> str:
    return receiver_named(name).file.find.replace("{uid}", "<uid>")


def receiver_row(name: str) -> str:
    """Return the row of the shipped receiver *name* in the table of sinks."""
    file = receiver_named(name).file
    form = "OCSF" if file.item.form == "ocsf" else file.item.form
    return (
        f"| [{file.product}](docs/sinks/{name}.md) | `{name}` | {form} | {file.proves} | "
        f"carry the same uid: {_code(_searched(name))} |"
    )


# --- the README -----------------------------------------------------------------------------------


def row(name: str) -> str:
    """Return the row of the shipped vendor *name* in the table of what is carried."""
    file = named(name).file
    lists = ", ".join(f"`{feed}`" for feed in file.feeds) or "audit log"
    need = re.split(r"(?<=[a-z)])[.:;](?: |$)", file.needs[0])[0] if file.needs else ""
    return f"| [{file.product}](docs/vendors/{name}.md) | `{name}` | {lists} | {_cell(need)} |"


def readme(text: str) -> str:
    """Return the README with a row for each shipped vendor and receiver, below the modules'."""
    kept = [line for line in text.splitlines() if _vendor(line) not in shipped()]
    kept = [line for line in kept if _sink(line) not in shipped_receivers()]
    first = max(number for number, line in enumerate(kept) if _sink(line) in sinks.available())
    kept[first + 1 : first + 1] = map(receiver_row, shipped_receivers())
    last = max(number for number, line in enumerate(kept) if _vendor(line) in sources.available())
    return "\n".join([*kept[: last + 1], *map(row, shipped()), *kept[last + 1 :], ""])


def _vendor(line: str) -> str | None:
    found = re.match(r"\| \[[^\]]+\]\(docs/vendors/(\w+)\.md\) \|", line)
    return None if found is None else found[1]


def _sink(line: str) -> str | None:
    found = re.match(r"\| \[[^\]]+\]\(docs/sinks/(\w+)\.md\)", line)
    return None if found is None else found[1]


# --- Markdown -------------------------------------------------------------------------------------


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _items(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        yield from _wrapped(f"* {sentence}", "  ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    mark = "``" if "`" in text else "`"
    return f"{mark}{_cell(text)}{mark}"


if __name__ == "__main__":
    for each in shipped():
        (FOLDER / f"{each}.md").write_text(page(each), "utf-8")
    for each in shipped_receivers():
        (RECEIVERS / f"{each}.md").write_text(receiver_page(each), "utf-8")
    README.write_text(readme(README.read_text("utf-8")), "utf-8")
