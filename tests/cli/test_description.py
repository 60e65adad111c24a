"""``auditrelay description``: what it shows, replays and writes, and with which status."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tests.descriptions.acme import text, write
from typer.testing import CliRunner, Result

from auditrelay.cli import cli
from auditrelay.cli.description.globs import meet, overlaps
from auditrelay.descriptions import shipped, shipped_receivers
from auditrelay.descriptions.load import read
from auditrelay.errors import ConfigError

PAGE = {
    "items": [
        {
            "id": "e1",
            "at": "2026-03-01T10:10:00Z",
            "action": "user.create",
            "result": "ok",
            "who": {"id": "u1"},
        }
    ]
}
ABOUT = """
evidence = "made up"
about = "One page."

[settings]
domain = "eu.acme.example"

[secrets]
token = "example-token"

[window]
start = 2026-03-01T10:00:00Z
end = 2026-03-01T11:00:00Z
"""
REQUEST: dict[str, Any] = {
    "method": "GET",
    "path": "/v1/logs",
    "query": [
        ["since", "2026-03-01T09:59:59.999Z"],
        ["until", "2026-03-01T11:00:00.000Z"],
        ["limit", "100"],
        ["sort", "asc"],
    ],
    "body": None,
    "headers": {"authorization": "Token example-token"},
}


def invoke(*arguments: str) -> Result:
    """Run the command; a ConfigError is a status of 2, as ``main`` makes it."""
    result = CliRunner().invoke(cli, ["description", *arguments])
    if isinstance(result.exception, ConfigError):
        result.exit_code = 2
    return result


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A folder with a description and one example, whose events were written."""
    write(tmp_path, text())
    conversation(tmp_path, "one_page")
    assert invoke("test", str(tmp_path), "--update").exit_code == 0
    return tmp_path


def conversation(
    folder: Path,
    name: str,
    about: str = ABOUT,
    request: dict[str, Any] = REQUEST,
    status: int = 200,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    made = folder / "examples" / name
    made.mkdir(parents=True)
    (made / "about.toml").write_text(about)
    (made / "1.request.json").write_text(json.dumps(request))
    reply = {"status": status, "headers": dict(headers), "body": PAGE}
    (made / "1.reply.json").write_text(json.dumps(reply))
    return made


def change(file: Path, *way: Any, to: Any) -> None:
    content = json.loads(file.read_text())
    node = content
    for key in way[:-1]:
        node = node[key]
    node[way[-1]] = to
    file.write_text(json.dumps(content))


# --- list and show -------------------------------------------------------------------------------


def test_the_list_has_every_shipped_description() -> None:
    out = invoke("list").stdout
    for name in shipped():
        assert f"\n{name}: " in f"\n{out}"
    assert "okta: Okta (by documentation, checked 2026-" in out
    rows = json.loads(invoke("list", "--json").stdout)
    assert [row["type"] for row in rows if not row.get("receiver")] == list(shipped())
    assert [row["type"] for row in rows if row.get("receiver")] == list(shipped_receivers())


@pytest.mark.parametrize("name", shipped())
def test_each_description_is_shown_whole(name: str) -> None:
    out = invoke("show", name).stdout
    joined = " ".join(out.split())
    file = read_shipped(name)
    for sentence in (*file.needs, *file.leaves_out, *file.unsure):
        assert " ".join(sentence.split()) in joined
    for key in (*file.settings, *file.secrets):
        assert f" {key}: " in joined
    assert "Asks" in out
    assert "Actions" in out
    if "settle = " in invoke("show", name, "--toml").stdout:
        assert "settle = " in out


def read_shipped(name: str) -> Any:
    from auditrelay.descriptions.load import named  # noqa: PLC0415  # beside its one use

    return named(name).file


def test_the_reasons_of_defaults_are_shown() -> None:
    out = invoke("show", "entra").stdout
    assert 'settle = "5m": most entries appear within some minutes' in out


def test_an_own_file_is_shown_and_printed(tmp_path: Path) -> None:
    file = write(tmp_path, text())
    assert "user.create: user/create" in invoke("show", str(file)).stdout
    assert invoke("show", str(file), "--toml").stdout == text()


def test_a_wrong_name_is_an_error_that_helps() -> None:
    result = invoke("show", "oktaa")
    assert result.exit_code == 2
    assert "did you mean okta?" in str(result.exception)


def test_the_help_has_every_name() -> None:
    out = " ".join(invoke("show", "--help").stdout.replace("│", " ").split())
    for name in shipped():
        assert f" {name}," in out or f" {name}." in out


# --- test ----------------------------------------------------------------------------------------


def test_an_example_that_fits_is_well(example: Path) -> None:
    for which in (example, example / "acme.toml"):
        result = invoke("test", str(which))
        assert result.exit_code == 0, result.stdout
        assert result.stdout == "one_page: ok, 1 event\n"
    [event] = json.loads((example / "examples/one_page/events.json").read_text())
    assert event["kind"] == "user"
    assert event["api_host"] == "eu.acme.example"
    assert "fetched" not in event


@pytest.mark.parametrize(
    ("way", "value", "shown"),
    [
        (("query", 0, 1), "2026-03-01T10:00:00.000Z", '-   "2026-03-01T10:00:00.000Z"'),
        (("query", 3, 1), "desc", '+   "asc"'),
        (("path",), "/v2/logs", '- "path": "/v2/logs"'),
        (("method",), "POST", '+ "method": "GET"'),
        (("headers", "authorization"), "Bearer x", '+  "authorization": "Token example-token"'),
        (("headers", "x-org"), "o1", '-  "x-org": "o1"'),
        (("body",), {"a": 1}, '+ "body": null'),
    ],
)
def test_another_request_than_recorded_is_shown_as_a_difference(
    example: Path, way: tuple[Any, ...], value: Any, shown: str
) -> None:
    change(example / "examples/one_page/1.request.json", *way, to=value)
    before = (example / "examples/one_page/events.json").read_text()
    for options in ((), ("--update",)):
        result = invoke("test", str(example), *options)
        assert result.exit_code == 1
        assert "one_page: differs\n  --- 1.request.json\n  +++ what was asked" in result.stdout
        assert shown in result.stdout
    assert (example / "examples/one_page/events.json").read_text() == before


def test_other_events_are_a_difference_until_they_are_updated(example: Path) -> None:
    file = example / "acme.toml"
    file.write_text(file.read_text().replace('"user/create"', '"user/delete"'))
    result = invoke("test", str(example))
    assert result.exit_code == 1
    assert '-  "verb": "create"' in result.stdout
    assert '+  "verb": "delete"' in result.stdout
    assert invoke("test", str(example), "--update").exit_code == 0
    assert invoke("test", str(example)).exit_code == 0


def test_true_is_not_1(example: Path) -> None:
    change(example / "examples/one_page/1.reply.json", "body", "items", 0, "flag", to=True)
    assert invoke("test", str(example), "--update").exit_code == 0
    change(example / "examples/one_page/events.json", 0, "raw", "flag", to=1)
    assert invoke("test", str(example)).exit_code == 1


def test_a_request_too_many_and_one_too_few_are_reported(example: Path) -> None:
    folder = example / "examples/one_page"
    change(folder / "1.reply.json", "body", "next", to="c2")
    result = invoke("test", str(example))
    assert result.exit_code == 1
    assert "request 2 is not recorded: GET /v1/logs?" in result.stdout
    change(folder / "1.reply.json", "body", "next", to=None)
    shutil.copy(folder / "1.request.json", folder / "2.request.json")
    shutil.copy(folder / "1.reply.json", folder / "2.reply.json")
    result = invoke("test", str(example))
    assert result.exit_code == 1
    assert "request 2 is recorded, and was not made" in result.stdout


@pytest.mark.parametrize(
    ("status", "headers", "expect", "problem"),
    [
        (403, {}, 'error = "refused"', None),
        (403, {}, 'error = "refused"\nwords = "no such words"', "does not contain 'no such words'"),
        (403, {}, 'error = "retry"', "it failed as 'refused', and not as 'retry'"),
        (200, {}, 'error = "refused"', "it did not fail, and 'refused' was expected"),
        (429, {"retry-after": "30"}, 'error = "retry"\nwait = 30', None),
        (
            429,
            {"retry-after": "30"},
            'error = "retry"\nwait = 60',
            "after 30 s, and not after 60 s",
        ),
        (429, {"retry-after": "3000"}, 'error = "retry"\nwait = 3000', None),
    ],
)
def test_an_error_that_is_expected_must_come(
    tmp_path: Path, status: int, headers: dict[str, str], expect: str, problem: str | None
) -> None:
    write(tmp_path, text())
    conversation(tmp_path, "it", f"{ABOUT}\n[expect]\n{expect}\n", status=status, headers=headers)
    result = invoke("test", str(tmp_path))
    assert result.exit_code == (0 if problem is None else 1), result.stdout
    assert problem is None or problem in result.stdout


def test_an_error_that_is_not_expected_is_a_difference(tmp_path: Path) -> None:
    write(tmp_path, text())
    conversation(tmp_path, "it", status=500)
    result = invoke("test", str(tmp_path))
    assert result.exit_code == 1
    assert "it failed ('retry'): 500 from GET" in result.stdout


def test_events_that_were_never_written_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path, text())
    conversation(tmp_path, "it")
    result = invoke("test", str(tmp_path))
    assert result.exit_code == 1
    assert "events.json is missing: write it with --update" in result.stdout


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        (
            "about.toml",
            ABOUT + "\n[expect]\nerror = 'never'\n",
            "about.toml: expect.error: must be",
        ),
        (
            "about.toml",
            ABOUT.replace("[settings]", "[setting]"),
            "about.toml: setting: unknown key",
        ),
        ("about.toml", ABOUT.replace("eu.acme", "eu acme"), "about.toml: domain: must look like"),
        ("about.toml", ABOUT.replace("11:00", "09:00"), "window.end: must be later"),
        ("1.request.json", "{", "1.request.json: is not valid JSON"),
        ("1.request.json", '{"method": "PUT", "path": "/"}', "1.request.json: method: must be"),
        ("1.reply.json", '{"status": "x"}', "1.reply.json: status: must be a whole number"),
        ("3.reply.json", "{}", "3.reply.json: is never asked for"),
        ("events.json", "[", "events.json: is not valid JSON"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(
    example: Path, file: str, content: str, problem: str
) -> None:
    (example / "examples/one_page" / file).write_text(content)
    result = invoke("test", str(example))
    assert result.exit_code == 2, result.stdout
    assert problem in str(result.exception)


def test_without_examples_there_is_nothing_to_prove(tmp_path: Path) -> None:
    file = write(tmp_path, text())
    result = invoke("test", str(file))
    assert result.exit_code == 2
    assert "there is no example to replay" in str(result.exception)
    file.write_text(text(pages=""))
    assert "pages: is missing" in str(invoke("test", str(file)).exception)
    assert "has no file *.toml" in str(invoke("test", str(tmp_path / "..")).exception)


def test_examples_of_several_files_are_found_by_their_names(example: Path) -> None:
    shutil.copytree(example / "examples/one_page", example / "examples2/acme/one_page")
    shutil.rmtree(example / "examples")
    (example / "examples2").rename(example / "examples")
    shutil.copy(example / "acme.toml", example / "other.toml")
    assert invoke("test", str(example / "acme.toml")).exit_code == 0
    assert "has 2 files *.toml" in str(invoke("test", str(example)).exception)


def test_a_shipped_one_is_tested_by_its_name() -> None:
    result = invoke("test", "tailscale")
    assert result.exit_code == 0, result.stdout
    assert "one_reply: ok, 3 events" in result.stdout


# --- globs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("user.*", "*.create", True),
        ("user.*", "role.*", False),
        ("a*b", "a*c", False),
        ("*a*", "*b*", True),
        ("a*", "a", True),
        ("*" * 20 + "a", "b" + "*" * 20, True),
    ],
)
def test_globs_that_some_text_fits_both_meet(
    one: str, other: str, expected: bool
) -> None:  # a case
    assert meet(one, other) is meet(other, one) is expected


def test_pairs_of_globs_are_named_where_it_matters(tmp_path: Path) -> None:
    table = """
[actions]
"user.*" = "user/update"
"*.create" = "other/create"
"user.mfa.*" = "credential/update"
"*.delete" = "user/update"
"""
    [sentence] = overlaps(read(write(tmp_path, text(actions=table))))
    assert '"*.create" before "user.*"' in sentence
    assert 'mfa.*" before "user.*' not in sentence  # the special case of a general one
    assert '"*.delete" before "user.*"' not in sentence  # they mean the same
