"""The documentation matches the code: commands, log events, metrics, promises, links."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docs import described
from prometheus_client import Counter

from auditrelay import sinks, sources
from auditrelay.cli import lazy
from auditrelay.descriptions import HTTP, load, shipped, shipped_receivers
from auditrelay.events.classify import CHANGES, KINDS, MEANINGS, VERBS
from auditrelay.events.forms import FORMS
from auditrelay.status import findings
from auditrelay.telemetry.metrics import TABLE, Metrics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
LISTED = (ROOT / "docs" / "commands.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "siem").rglob("*.md")])


def rows(page: str) -> Iterator[list[str]]:
    """Yield the cells of each row of a page's tables whose first cell is `code`."""
    for line in (ROOT / "docs" / page).read_text("utf-8").splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


# --- promises ----------------------------------------------------------------------------------

GUARANTEES = README.partition("\n## What it guarantees\n")[2].partition("\n## ")[0]
PROMISES = re.findall(r"^\d\. \*\*(.+?)\.?\*\*", GUARANTEES, flags=re.MULTILINE)


def test_there_are_seven_promises() -> None:
    assert len(PROMISES) == 7


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_has_a_test_of_the_same_words(promise: str) -> None:
    words = "_".join(re.findall(r"\w+", promise.lower()))
    tests = {
        node.name
        for module in (ROOT / "tests" / "promises").glob("test_*.py")
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert any(name.startswith(f"test_{words}") for name in tests)


# --- commands ----------------------------------------------------------------------------------


def commands(members: Mapping[str, Any], path: str = "auditrelay") -> Iterator[tuple[str, Any]]:
    for name, command in members.items():
        whole = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from commands(command.commands, whole)
        else:
            yield whole, command


COMMANDS = dict(commands({name: lazy.command(name) for name in lazy.COMMANDS}))


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_is_listed_and_has_help(path: str) -> None:
    assert re.search(rf"^\| `{path}\b", LISTED, flags=re.MULTILINE)
    command = COMMANDS[path]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{path}: {parameter.name}"


def test_the_list_names_no_command_that_does_not_exist() -> None:
    shown = re.findall(r"^\| `(auditrelay [a-z][^`]*)`", LISTED, re.MULTILINE)
    assert shown
    for line in shown:
        assert any(f"{line} ".startswith(f"{path} ") for path in COMMANDS), line


# --- log events --------------------------------------------------------------------------------

LEVELS = ("debug", "info", "warning", "error")


@dataclass
class Logged:
    """The levels and fields of one log event in the code."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


@cache
def logged() -> dict[str, Logged]:
    """Return every log event in the code: calls such as ``_log.info("name", field=...)``."""
    found: dict[str, Logged] = {}
    for module in sorted((ROOT / "src").rglob("*.py")):
        for call in ast.walk(ast.parse(module.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            logger, method = ast.unparse(call.func.value), call.func.attr
            if logger.split(".")[-1] not in ("log", "_log") or method not in (*LEVELS, "log"):
                continue
            names = [
                each.value
                for each in ast.walk(call.args[1 if method == "log" else 0])
                if isinstance(each, ast.Constant)
            ]
            assert names, f"{module}:{call.lineno}: the name of a log event must be in the call"
            for name in names:
                assert isinstance(name, str)
                event = found.setdefault(name, Logged())
                event.levels.add("as given" if method == "log" else method)
                fields = {each.arg for each in call.keywords if each.arg}
                event.fields |= {"exception" if each == "exc_info" else each for each in fields}
    return found


def test_log_events_are_found() -> None:
    assert {"started", "window_collected", "window_reswept", "request_retried"} <= {*logged()}


def test_every_log_event_is_documented_and_every_documented_one_exists() -> None:
    documented = [row[0].strip("`") for row in rows("log-events.md")]
    assert sorted(documented) == sorted(logged())


@pytest.mark.parametrize("row", list(rows("log-events.md")), ids=lambda row: row[0].strip("`"))
def test_a_log_event_has_the_level_and_the_fields_that_are_documented(row: list[str]) -> None:
    event = logged()[row[0].strip("`")]
    assert {row[1]} == event.levels
    assert event.fields <= set(re.findall(r"`(\w+)`", row[2]))


@pytest.mark.parametrize("row", list(rows("log-events.md")), ids=lambda row: row[0].strip("`"))
def test_a_log_event_says_what_to_do(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row[3:])


# --- metrics -----------------------------------------------------------------------------------


def exposed() -> dict[str, str]:
    """Return the type of every metric, by its name and labels: ``name{label,label}``."""
    labels = {
        f"{row.name.removesuffix('_total')}_total" if row.kind is Counter else row.name: row.labels
        for row in TABLE
    }
    text = Metrics(version="1", shared=True).render()[0].decode()
    found = {}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        named = ",".join(labels[name.removeprefix("auditrelay_")])
        found[f"{name}{{{named}}}" if named else name] = kind
    return found


def test_every_metric_is_documented_with_its_labels_and_type_and_the_other_way_round() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows("metrics.md")}
    assert documented == exposed()


def test_pages_name_only_metrics_that_exist() -> None:
    names = {name.partition("{")[0] for name in exposed()}
    for page in PAGES:
        for shown in re.findall(r"\bauditrelay_[a-z_]+[a-z]\b", page.read_text("utf-8")):
            if shown not in ("auditrelay_kind", "auditrelay_verb", "auditrelay_tags"):
                assert shown in names, f"{page.name}: {shown}"


def test_every_metric_says_what_to_do() -> None:
    for row in rows("metrics.md"):
        assert len(row) == 4, row
        assert all(row), row


# --- pages for operators ------------------------------------------------------------------------


def exit_statuses() -> set[str]:
    """Return every exit status in the code."""
    ends: list[ast.expr] = []
    for module in sorted((ROOT / "src" / "auditrelay" / "cli").glob("*.py")):
        for call in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("sys.exit", "typer.Exit"):
                ends += call.args
    errors = ast.parse((ROOT / "src" / "auditrelay" / "errors.py").read_text("utf-8"))
    for function in errors.body:
        if isinstance(function, ast.FunctionDef) and function.name == "exit_status":
            ends += [
                each.value
                for each in ast.walk(function)
                if isinstance(each, ast.Return) and each.value is not None
            ]
    return {"0"} | {
        str(each.value)
        for end in ends
        for each in ast.walk(end)
        if isinstance(each, ast.Constant) and isinstance(each.value, int)
    }


def test_every_exit_status_is_documented_with_what_to_do() -> None:
    shown = {row[0].strip("`"): row for row in rows("operations.md") if row[0].strip("`").isdigit()}
    assert shown.keys() == exit_statuses() == {"0", "1", "2", "3"}
    for status, row in shown.items():
        assert len(row) == 4
        assert row[3], status


def test_every_error_in_the_log_has_an_action() -> None:
    """Of an error, 'nothing' is no answer to what to do."""
    for row in rows("log-events.md"):
        if row[1] == "error":
            assert row[4] != "nothing", row[0]


def test_every_code_of_a_finding_is_among_the_symptoms() -> None:
    judged = ast.parse(inspect.getsource(findings.judge))
    codes = [
        pair.elts[0].value
        for pair in ast.walk(judged)
        if isinstance(pair, ast.Tuple) and isinstance(pair.elts[0], ast.Constant)
    ]
    shown = [row[0].strip("`") for row in rows("if-you-see-this.md") if len(row) == 3]
    assert len(set(codes)) > 10
    assert [code for code in dict.fromkeys(codes) if code not in shown] == []


def test_every_error_in_the_log_is_among_the_symptoms() -> None:
    symptoms = (ROOT / "docs" / "if-you-see-this.md").read_text("utf-8")
    errors = [name for name, event in logged().items() if event.levels == {"error"}]
    assert errors
    assert [name for name in errors if name not in symptoms] == []


def test_operations_links_all_pages_for_operators() -> None:
    first = (ROOT / "docs" / "operations.md").read_text("utf-8")
    for page in (
        "if-you-see-this",
        "log-events",
        "metrics",
        "systemd",
        "container",
        "upgrade",
        "sizing",
        "cost",
    ):
        assert f"]({page}.md)" in first, page


# --- configuration -----------------------------------------------------------------------------


def test_the_example_configuration_is_mentioned() -> None:
    assert "(config.example.toml)" in README


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_named_in_the_readme(form: str) -> None:
    assert f'"{form}"' in README


FOLDERS = {"vendors": sources, "sinks": sinks}
"""The folders of ``docs`` with a page for each type."""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        *((folder, kind) for folder, package in FOLDERS.items() for kind in package.available()),
        *(("vendors", kind) for kind in shipped()),
    ],
)
def test_a_source_or_sink_has_a_page_whose_configuration_is_read_without_a_problem(
    folder: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditrelay import config  # noqa: PLC0415  # it is what this test is about
    from auditrelay.telemetry import scrubber  # noqa: PLC0415  # likewise

    monkeypatch.setattr(config, "scrubber", scrubber.Scrubber())
    page = (ROOT / "docs" / folder / f"{kind}.md").read_text("utf-8")
    assert page.startswith("# ")
    blocks = re.findall(r"^```toml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    path = tmp_path / "auditrelay.toml"
    for block in blocks:
        assert f'type = "{kind}"' in block
        if "${file:" in block:
            (tmp_path / "secret").write_text("sb-acme-auth-token=a-pretend-secret")
            block = re.sub(r"\$\{file:.*?\}", f"${{file:{tmp_path}/secret}}", block)  # noqa: PLW2901  # the same, with a file that exists
        path.write_text(block, "utf-8")
        secrets = dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", block), "a pretend secret")
        loaded = config.load(path, {**secrets, "HOME": str(tmp_path)})
        tables: list[Any] = [*loaded.sources.values(), *loaded.sinks.values()]
        assert {each.type for each in tables} == {kind}
        assert len(tables) == block.count("type = ")


def test_every_page_of_a_source_or_sink_is_of_a_type() -> None:
    for folder, package in FOLDERS.items():
        pages = {page.stem for page in (ROOT / "docs" / folder).iterdir()}
        more = shipped() if folder == "vendors" else (*shipped_receivers(), HTTP)
        assert pages == {*package.available(), *more}


# --- described vendors -------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_the_page_of_a_described_vendor_is_what_its_file_says(name: str) -> None:
    """`make generate` writes it."""
    assert (ROOT / "docs" / "vendors" / f"{name}.md").read_text("utf-8") == described.page(name)


@pytest.mark.parametrize("name", shipped())
def test_the_page_of_a_described_vendor_leaves_nothing_out(name: str) -> None:
    page = described.page(name)
    description = load.named(name)
    file = description.file
    words = " ".join(page.split())
    for sentence in (*file.needs, *file.leaves_out, *file.unsure, *file.docs):
        assert sentence in words
    for key in (*file.settings, *file.secrets, *file.feeds):
        assert f"`{key}`" in page, key
    for feed in map(description.feed, file.feeds or (None,)):
        for key in feed.defaults.given():
            assert re.search(rf"^\| `{key}` \| `.+` \| \S.+ \|$", page, re.MULTILINE), key
        for action in feed.actions:
            assert f"`{action}`".replace("|", "\\|") in page, action


def test_the_readme_has_a_row_for_every_described_vendor_behind_those_with_a_module() -> None:
    linked = re.findall(
        r"^\| \[.+?\]\(docs/vendors/(\w+)\.md\) \| `(\w+)` \|", README, re.MULTILINE
    )
    names = [name for name, _ in linked]
    assert linked == [(name, name) for name in names]
    modules = names[: -len(shipped())]
    assert set(modules) <= set(sources.available())
    assert len(modules) >= 5
    assert names[len(modules) :] == list(shipped())
    assert described.readme(README) == README, "`make generate` writes the rows"
    assert f"[{len(shipped())} more](#sources)" in README
    assert len(shipped_receivers()) == 6
    assert "[six more](#sinks)" in README


# --- kinds and verbs ---------------------------------------------------------------------------

MEANT = list(rows("kinds-and-verbs.md"))


def test_every_kind_and_every_verb_is_documented_in_the_order_of_the_tables() -> None:
    assert [row[0].strip("`") for row in MEANT if len(row) == 2] == [*KINDS, *VERBS]


def test_the_risks_are_those_of_the_documented_kinds_and_verbs() -> None:
    every = {"any": VERBS.keys(), "any that changes something": CHANGES}
    documented = {
        (kind, verb, risk.strip("`"))
        for risk, kinds, verbs in (row for row in MEANT if len(row) == 3)
        for kind in re.findall(r"`(\w+)`", kinds) or KINDS
        for verb in re.findall(r"`(\w+)`", verbs) or every[verbs]
    }
    assert documented == {
        (kind, verb, risk)
        for kind in KINDS
        for verb in VERBS
        for risk in MEANINGS[kind, verb].risks
    }
    siem = (ROOT / "siem" / "README.md").read_text("utf-8")
    assert {risk for *_, risk in documented} <= set(re.findall(r"`(\w+)`", siem))


def test_the_verbs_that_change_nothing_are_documented() -> None:
    page = (ROOT / "docs" / "kinds-and-verbs.md").read_text("utf-8")
    _, _, said = page.partition("Every verb changes something but ")
    assert set(re.findall(r"`(\w+)`", said.partition(".")[0])) == VERBS.keys() - CHANGES


# --- links --------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the names that the headings of *page* can be linked by."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match("https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_has_context_decision_and_consequences(page: Path) -> None:
    text = page.read_text("utf-8")
    assert re.match(rf"# {page.name[:4]}: ", text)
    assert {"context", "decision", "consequences"} <= anchors(page)


NOT_OURS = re.compile(
    # Folders of one machine, and the hosts and options of package registries.
    r"(?<![\w./])/(?:root|Users)/"
    r"|pypi\.org|pythonhosted\.org|npmjs\.|crates\.io|proxy\.golang"
    r"|--(?:extra-)?index[-]url|--find[-]links"
)


def files() -> Iterator[Path]:
    """Yield the files of the project, without build products."""
    made = {"build", "dist", "__pycache__", ".git", ".hypothesis", "target"}
    folders = [ROOT]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if path.name in made or path.name.endswith("_cache"):
                continue
            if path.is_dir():
                if not (path / "pyvenv.cfg").exists():
                    folders.append(path)
            elif path != Path(__file__) and path.suffix != ".pyc":
                yield path


def test_no_file_names_one_machine_or_a_registry() -> None:
    seen = 0
    for path in files():
        seen += 1
        found = NOT_OURS.search(path.read_text("utf-8", errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)}: {found}"
    assert seen > 100
