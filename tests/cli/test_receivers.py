"""What the commands say of receivers that are described in files."""

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.support.quill import FILE
from typer.testing import CliRunner

from auditrelay import config
from auditrelay.cli import cli
from auditrelay.descriptions import RECEIVERS, shipped_receivers
from auditrelay.descriptions.receiver.load import named
from auditrelay.errors import ConfigError
from auditrelay.telemetry.scrubber import Scrubber


@pytest.fixture(autouse=True)
def own_scrubber(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "scrubber", Scrubber())


def invoke(*words: str, status: int = 0) -> str:
    """Return what the command prints; a ConfigError is a status of 2, as ``main`` makes it."""
    done = CliRunner().invoke(cli, words, env={"COLUMNS": "100"})
    if isinstance(done.exception, ConfigError):
        assert status == 2, done.exception
        return str(done.exception)
    assert done.exit_code == status, done.output
    return done.output


def configured(folder: Path, sink: str) -> str:
    file = folder / "auditrelay.toml"
    file.write_text(
        f'state_dir = "{folder}"\n[sources.b]\ntype = "bland"\napi_key = "b-12345678"\n'
        f"[sinks.lake]\n{sink}\n"
    )
    file.chmod(0o600)
    return str(file)


def lake(description: Path, more: str = "") -> str:
    return (
        f'type = "http"\ndescription = "{description}"\nsite = "acme.quill.example"\n'
        f'key = "k-123456789"\n{more}'
    )


def test_check_offline_shows_what_each_of_a_set_of_answers_would_be_taken_for(
    tmp_path: Path,
) -> None:
    out = invoke("-c", configured(tmp_path, lake(FILE)), "check", "--offline")
    assert "Notes on lake:" in out
    for line in (
        "answer 200 with an empty body: hold, possible duplicates",
        "answer 301: hold",
        "answer 400: split",
        "answer 503: retry, possible duplicates",
        'answer 200 {"results": [{"state": "stored"}]}: done',
        'answer 409 {"message": "read-only"}: hold',
    ):
        assert f"  {line}\n" in out


def test_an_example_that_is_taken_for_something_else_fails(tmp_path: Path) -> None:
    wrong = tmp_path / "quill.toml"
    wrong.write_text(FILE.read_text().replace("status = 409\nbody", "status = 410\nbody"))
    invoke("description", "test", str(wrong))  # a refusal of every event alike holds, too
    wrong.write_text(FILE.read_text().replace('means = "split"', 'means = "hold"'))
    sentence = "means hold, and is taken for split"
    out = invoke("description", "test", str(wrong), status=1)
    assert f"{wrong}: examples[2]: 400 " in out
    assert sentence in out
    checked = invoke("-c", configured(tmp_path, lake(wrong)), "check", "--offline", status=1)
    assert sentence in checked


def test_what_is_wrong_with_a_description_is_a_line_of_the_check(tmp_path: Path) -> None:
    wrong = tmp_path / "quill.toml"
    wrong.write_text(FILE.read_text().replace('"$uid"', '"$uuid"'))
    for words in (
        ("-c", configured(tmp_path, lake(wrong)), "check", "--offline"),
        ("description", "show", str(wrong)),
    ):
        out = invoke(*words, status=2)
        assert f"{wrong}: item.skeleton: there is no $uuid; did you mean $uid?" in out


@pytest.mark.parametrize(
    ("sink", "sentence"),
    [
        ('type = "http"', "sinks.lake.description: is missing: write the path of the file that"),
        ('type = "htp"', "did you mean http?"),
        (lake(FILE).replace("acme.quill.example", "acme.example"), "sinks.lake.site: must look li"),
        (lake(FILE, "batch_events = 501"), "sinks.lake.batch_events: must be at most 500"),
        (lake(FILE, 'format = "acme"'), "sinks.lake.format: must be "),
        (lake(FILE, 'kei = "x"'), "sinks.lake.kei: unknown key; did you mean key?"),
        (
            'type = "axiom"\ndataset = "a"\ntoken = "t-1234567"\ndomain = "a..b.-"',
            "sinks.lake.domain: stands in the host of an address: only letters, digits, dots",
        ),
        (
            'type = "axiom"\ndataset = ".."\ntoken = "t-1234567"',
            "sinks.lake.dataset: stands in the path of an address, and would lead elsewhere",
        ),
        ('type = "sumo"\nurl = "a-secret-word"', "sinks.lake.url: is not an address"),
        ('type = "sumo"\nurl = "http://s.example/a-secret-word"', "sinks.lake.url: plain http"),
    ],
)
def test_what_is_wrong_with_the_table_of_a_sink(sink: str, sentence: str, tmp_path: Path) -> None:
    out = invoke("-c", configured(tmp_path, sink), "check", "--offline", status=2)
    assert sentence in " ".join(out.split())
    assert "a-secret-word" not in out


def test_a_sink_is_another_one_when_its_description_has_changed(tmp_path: Path) -> None:
    """SIGHUP reads the file again, and does not interrupt a sink that has not changed."""
    own = tmp_path / "quill.toml"
    own.write_text(FILE.read_text())
    path = Path(configured(tmp_path, lake(own)))
    environ = {"HOME": str(tmp_path)}
    first, same = (config.load(path, environ).sinks["lake"] for _ in range(2))
    assert first == same
    own.write_text(FILE.read_text().replace("events = 500", "events = 400"))
    changed = config.load(path, environ).sinks["lake"]
    assert changed != first
    assert changed.batch_events == 400


@pytest.mark.parametrize("name", shipped_receivers())
def test_each_receiver_is_listed_shown_and_written_by_init(name: str, tmp_path: Path) -> None:
    file = named(name).file
    assert f"\n{name}: {file.product} (receiver, by documentation" in invoke("description", "list")
    out = " ".join(invoke("description", "show", name).split())
    for sentence in (*file.needs, *file.unsure):
        assert " ".join(sentence.split()) in out
    for key in (*file.settings, *file.secrets):
        assert f" {key}: " in out
    shown = invoke("description", "show", name, "--toml")
    assert shown == (RECEIVERS / f"{name}.toml").read_text("utf-8")
    invoke("description", "test", name)
    path = tmp_path / "auditrelay.toml"
    invoke("init", str(path), "--source", "bland", "--sink", name)
    [table] = tomllib.loads(path.read_text())["sinks"].values()
    assert table["type"] == name


def test_init_writes_the_table_of_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "auditrelay.toml"
    invoke("init", str(path), "--sink", "http")
    [table] = tomllib.loads(path.read_text())["sinks"].values()
    assert table == {"type": "http", "description": ""}


def test_the_schema_of_a_receiver_knows_every_shipped_file() -> None:
    schema = json.loads(invoke("description", "schema", "--receiver"))
    Draft202012Validator.check_schema(schema)
    for name in shipped_receivers():
        table = tomllib.loads((RECEIVERS / f"{name}.toml").read_text("utf-8"))
        Draft202012Validator(schema).validate(json.loads(json.dumps(table, default=str)))
    assert not Draft202012Validator(schema).is_valid({"receiver": "x"})
