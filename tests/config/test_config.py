"""The file, the environment over it, references, and every problem reported at once."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import Field, field_validator, model_validator

from auditrelay import config
from auditrelay.config import load, model
from auditrelay.config.model import Config
from auditrelay.config.schema import json_schema
from auditrelay.errors import ConfigError
from auditrelay.settings import SinkSettings, SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.scrubber import Scrubber


class Vendor(SourceSettings):
    """A source with every kind of value."""

    type: Literal["vendor"]
    base_url: Address = "https://api.vendor.example"
    organization_id: str
    api_key: Secret
    region: str = "eu"
    weight: float = 1.0

    @field_validator("region")
    @classmethod
    def _is_known(cls, region: str) -> str:
        if region not in ("eu", "us"):
            raise ValueError(f"{region!r} is not a region")
        return region

    @model_validator(mode="after")
    def _check_owner(self) -> Self:
        if self.organization_id == "wrong":
            raise ValueError(f"the key {self.api_key.reveal()} is of another organisation")
        return self


class Product(SinkSettings):
    """A sink."""

    type: Literal["product"]
    format: Literal["raw", "ecs"] = "raw"
    url: Address
    token: Secret
    label: Annotated[str, Field(min_length=2, max_length=4, pattern="^[a-z]*$")] = "abc"


SOURCES: Mapping[str, type[SourceSettings]] = {"vendor": Vendor}
SINKS: Mapping[str, type[SinkSettings]] = {"product": Product}
GOOD = """
[sources.acme-voice]
type = "vendor"
organization_id = "42"
api_key = "literal-key-1"
[sinks.splunk]
type = "product"
url = "https://splunk.example:8088"
token = "literal-token-1"
"""
HOME = {"HOME": "/home/op"}


@pytest.fixture(autouse=True)
def scrubber(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scrubber:
    """Ignore the machine's own configuration, and replace the log's scrubber."""
    monkeypatch.setattr(
        config, "DEFAULT_PATHS", (tmp_path / "auditrelay.toml", tmp_path / "etc.toml")
    )
    scrubber = Scrubber()
    monkeypatch.setattr(config, "scrubber", scrubber)
    return scrubber


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "given.toml"
    path.write_text(GOOD)
    path.chmod(0o600)
    return path


def read(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    return load(path, {**HOME, **(environ or {})}, sources=SOURCES, sinks=SINKS)


def problems(path: Path | None, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(path, environ)
    return list(caught.value.problems)


def vendor(config: Config, name: str = "acme-voice") -> Vendor:
    settings = config.sources[name]
    assert isinstance(settings, Vendor)
    return settings


# --- where it comes from -----------------------------------------------------------------------


def test_a_small_file_gets_every_default(file: Path) -> None:
    found = read(file)
    assert found.path == file
    assert found.state_dir == Path("/home/op/.local/state/auditrelay")
    assert found.status.listen == "127.0.0.1:9464"
    assert (found.log.level, found.log.format) == ("info", "auto")
    assert found.spool.max_bytes == 2 * 2**30
    assert (found.spool.retention, found.spool.remember) == (timedelta(7), timedelta(400))
    assert vendor(found).api_key.reveal() == "literal-key-1"
    assert found.sinks["splunk"].concurrency == 4
    assert found.warnings == ()


def test_the_file_is_the_named_one_else_that_of_the_first_default_path(
    tmp_path: Path, file: Path
) -> None:
    here, etc, named = tmp_path / "auditrelay.toml", tmp_path / "etc.toml", tmp_path / "n.toml"
    for path in (etc, here, named):
        path.write_text(GOOD)
        path.chmod(0o600)
    environ = {"AUDITRELAY_CONFIG": str(named)}
    assert read(file, environ).path == file
    assert read(None, environ).path == named
    assert read(None).path == here
    here.unlink()
    assert read(None).path == etc


def test_a_missing_configuration_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (problem,) = problems(None, {"AUDITRELAY_PORT": "tcp://10.0.0.1:9464"})
    assert "auditrelay.toml" in problem
    assert "`auditrelay init`" in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"[sources\n", "line 1, column 9: not valid TOML"),
        (b'a = 1\nb = "\n', "line 2, column 6: not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"a = '\xff'", "is not text in UTF-8 (byte 5)"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: ")
    assert message in problem


def test_a_folder_is_not_a_configuration_file(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_byte_order_mark_is_ignored(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert vendor(read(file)).organization_id == "42"


@pytest.mark.process
def test_the_configuration_can_come_from_a_pipe() -> None:
    code = (
        "from pathlib import Path; from auditrelay.config import load;"
        "print(load(Path('/dev/stdin'), {'HOME': '/h'}).sinks['out'].path)"
    )
    text = '[sinks.out]\ntype = "file"\npath = "-"\n'
    ran = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("-\n", "")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x"}, "/x/auditrelay"),
        ({"XDG_STATE_HOME": "relative"}, "/home/op/.local/state/auditrelay"),
        ({"AUDITRELAY_STATE_DIR": "/given", "STATE_DIRECTORY": "/var/lib/a"}, "/given"),
    ],
)
def test_the_state_is_in_the_folder_that_the_system_names(
    environ: dict[str, str], folder: str, file: Path
) -> None:
    assert read(file, environ).state_dir == Path(folder)


def test_without_a_home_state_dir_must_be_set(file: Path) -> None:
    with pytest.raises(ConfigError, match="state_dir: is missing"):
        load(file, {}, sources=SOURCES, sinks=SINKS)


# --- the environment ---------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_key_by_key(file: Path) -> None:
    found = read(
        file,
        {
            "AUDITRELAY_SOURCES__ACME_VOICE__ORGANIZATION_ID": "0043",
            "AUDITRELAY_SOURCES__ACME_VOICE__PAGE_SIZE": "7",
            "AUDITRELAY_SOURCES__ACME_VOICE__ENABLED": "false",
            "AUDITRELAY_SOURCES__ACME_VOICE__RESWEEP": "2h,3d",
            "AUDITRELAY_SOURCES__ACME_VOICE__TAGS__VERSION": "1.10",
            "AUDITRELAY_SOURCES__ACME_VOICE__WEIGHT": "2.5",
            "auditrelay_sinks__splunk__sources": '["acme-*"]',
            "AUDITRELAY_SINKS__SPLUNK__TOKEN": "${env:OTHER}",
            "AUDITRELAY_LOG__LEVEL": "debug",
            "AUDITRELAY_STATUS": '{"listen": "[::1]:0"}',
            "OTHER": "other-token-1",
        },
    )
    settings = vendor(found)
    assert settings.organization_id == "0043"
    assert settings.page_size == 7
    assert not settings.enabled
    assert settings.resweep == [timedelta(hours=2), timedelta(days=3)]
    assert settings.tags == {"version": "1.10"}
    assert settings.weight == 2.5
    assert settings.api_key.reveal() == "literal-key-1"
    sink = found.sinks["splunk"]
    assert isinstance(sink, Product)
    assert sink.sources == ["acme-*"]
    assert sink.token.reveal() == "other-token-1"
    assert found.log.level == "debug"
    assert found.status.listen == "[::1]:0"


def test_no_file_is_needed() -> None:
    found = read(
        None,
        {
            "AUDITRELAY_SOURCES__ACME_VOICE__TYPE": "vendor",
            "AUDITRELAY_SOURCES__ACME_VOICE__ORGANIZATION_ID": "42",
            "AUDITRELAY_SOURCES__ACME_VOICE__API_KEY": "key-from-env",
            "AUDITRELAY_SINKS__S": '{"type": "product", "url": "https://h"}',
            "AUDITRELAY_SINKS__S__TOKEN": "token-from-env",
            "AUDITRELAY_SINKS__S__BATCH_EVENTS": "5",
        },
    )
    assert found.path is None
    assert vendor(found, "acme_voice").api_key.reveal() == "key-from-env"
    assert found.sinks["s"].batch_events == 5
    assert found.warnings == ()


def test_a_whole_table_of_sinks_can_be_one_variable() -> None:
    sinks = {"s": {"type": "product", "url": "https://h", "token": "token-in-json"}}
    found = read(None, {"AUDITRELAY_SINKS": json.dumps(sinks), "AUDITRELAY_SINKS__S__LABEL": "xy"})
    sink = found.sinks["s"]
    assert isinstance(sink, Product)
    assert (sink.label, sink.token.reveal()) == ("xy", "token-in-json")


def test_a_variable_overrides_a_key_that_the_file_spells_with_capitals(file: Path) -> None:
    file.write_text(GOOD.replace("[sinks", 'tags = { Team = "a" }\n[sinks'))
    found = read(file, {"AUDITRELAY_SOURCES__ACME_VOICE__TAGS__TEAM": "b"})
    assert vendor(found).tags == {"Team": "b"}


def test_a_secret_in_a_variable_is_not_parsed_as_json(file: Path) -> None:
    environ = {"AUDITRELAY_SOURCES__ACME_VOICE__API_KEY": '{"private_key": "abc"}'}
    assert vendor(read(file, environ)).api_key.reveal() == '{"private_key": "abc"}'


def test_a_bad_value_in_a_variable_names_the_variable(file: Path) -> None:
    assert problems(file, {"AUDITRELAY_SOURCES__ACME_VOICE__PAGE_SIZE": "many"}) == [
        (
            "sources.acme-voice.page_size (from AUDITRELAY_SOURCES__ACME_VOICE__PAGE_SIZE): "
            'must be a whole number, not "many"'
        )
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("AUDITRELAY_LOG_LEVEL", "; did you mean AUDITRELAY_LOG__LEVEL?"),
        ("AUDITRELAY_STATEDIR", "; did you mean AUDITRELAY_STATE_DIR?"),
        ("AUDITRELAY_SOURCE__X__TYPE", ""),
        ("AUDITRELAY_SINKS____TOKEN", ""),
        ("AUDITRELAY_", ""),
    ],
)
def test_an_unknown_variable_is_an_error(name: str, hint: str, file: Path) -> None:
    (problem,) = problems(file, {name: "x"})
    assert problem.startswith(f"{name}: unknown variable")
    assert problem.endswith(hint)


def test_the_variables_of_a_kubernetes_service_are_not_ours(file: Path) -> None:
    service = {
        "AUDITRELAY_SERVICE_HOST": "10.0.0.1",
        "AUDITRELAY_SERVICE_PORT_METRICS": "9464",
        "AUDITRELAY_PORT": "tcp://10.0.0.1:9464",
        "AUDITRELAY_PORT_9464_TCP_ADDR": "10.0.0.1",
        "AUDITRELAY_WEB_SERVICE_HOST": "10.0.0.1",
    }
    assert read(file, service) == read(file)


def test_two_variables_for_one_value_are_an_error(file: Path) -> None:
    name = "AUDITRELAY_SOURCES__ACME_VOICE__TAGS"
    assert problems(file, {name: '{"a": "b"}', f"{name}__C": "d"}) == [
        f"{name}__C and {name} are both set; set only one of them"
    ]


def test_a_misspelled_sink_in_a_variable_is_reported_with_the_likely_name(file: Path) -> None:
    (problem,) = problems(file, {"AUDITRELAY_SINKS__SPLNK__TOKEN": "hunter2-token"})
    assert problem == "sinks.splnk.type: is missing; did you mean splunk? (known: product)"


# --- problems ----------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once(file: Path) -> None:
    file.write_text("""
        state_dri = "/x"
        store = "postgresql://u:hunter2@h/db"
        [log]
        level = "inf"
        lvel = "info"
        [status]
        listen = "9464"
        [spool]
        max_bytes = "2 gigs"
        [sources.acme-voice]
        type = "vendor"
        organization_id = 42
        api_kye = "sk-hunter2"
        overlp = "5m"
        poll_interval = "5 minutes"
        page_size = 0
        enabled = "maybe"
        initial_lookback = "31d"
        resweep = ["1h", "0s"]
        tags = { a = 1 }
        weight = "heavy"
        ca_file = 3
        [sources.other]
        type = "vendr"
        [sources.acme_voice]
        type = "vendor"
        organization_id = "1"
        api_key = "${env:NOPE}"
        base_url = "http://example.com"
        [sinks]
        flat = "x"
        [sinks.s]
        type = "product"
        url = "https://u:hunter2@h"
        token = ["hunter2"]
        compression = "zip"
        concurrency = 65
        label = "ABCDE"
        linger = 1
        sources = 3
        [sinks."a b"]
        url = "x"
        """)
    assert sorted(problems(file)) == sorted(
        [
            "state_dri: unknown key; did you mean state_dir?",
            (
                "store: a shared store is not supported by this version: leave the key out, and "
                "SQLite in state_dir is used"
            ),
            'log.level: must be "debug", "info", "warning" or "error", not "inf"',
            "log.lvel: unknown key; did you mean level?",
            (
                "status.listen: '9464' is not an address to listen on: write host:port, such as "
                '"127.0.0.1:9464"'
            ),
            (
                "spool.max_bytes: '2 gigs' is not a size: write a whole number and one unit of B, "
                'KB, MB, GB, TB, KiB, MiB, GiB, TiB, such as "2GiB"'
            ),
            'sources.acme-voice.organization_id: must be a text: write it in quotes, "42"',
            "sources.acme-voice.api_kye: unknown key; did you mean api_key?",
            "sources.acme-voice.api_key: is missing",
            "sources.acme-voice.overlp: unknown key; did you mean overlap?",
            (
                "sources.acme-voice.poll_interval: '5 minutes' is not a duration: write a whole "
                'number and one unit of ms, s, m, h, d, such as "5m"'
            ),
            "sources.acme-voice.page_size: must be at least 1, not 0",
            'sources.acme-voice.enabled: must be true or false, not "maybe"',
            'sources.acme-voice.initial_lookback: must be at most 30 days, not "31d"',
            'sources.acme-voice.resweep[1]: must be more than 0s, not "0s"',
            'sources.acme-voice.tags.a: must be a text: write it in quotes, "1"',
            'sources.acme-voice.weight: must be a number, not "heavy"',
            "sources.acme-voice.ca_file: must be the path of a file, not 3",
            'sources.other.type: unknown type "vendr"; did you mean vendor? (known: vendor)',
            "sources.acme_voice: has the same name as acme-voice in the environment: rename one",
            "sources.acme_voice.api_key: the environment variable NOPE is not set",
            (
                "sources.acme_voice.base_url: plain http would send the credentials in clear text; "
                "use https, or set allow_insecure_http = true"
            ),
            'sinks.flat: must be a table, not "x"',
            "sinks.s.url: must not contain a user name or password: they would appear in logs",
            "sinks.s.token: must be a text",
            'sinks.s.compression: must be "gzip" or "none", not "zip"',
            "sinks.s.concurrency: must be at most 64, not 65",
            'sinks.s.label: must have a length of at most 4, not "ABCDE"',
            (
                "sinks.s.linger: 1 is not a duration: write a whole number and one unit of "
                'ms, s, m, h, d, such as "5m"'
            ),
            "sinks.s.sources: must be a list, not 3",
            (
                "sinks.a b: a name consists of letters, digits and single - _ . between them, at "
                "most 64"
            ),
            "sinks.a b.type: is missing (known: product)",
        ]
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "[sources.acme-voice]",
            "[source.acme-voice]",
            "source: unknown key; did you mean sources?",
        ),
        ("[sources.acme-voice]", "[spool.x]\n[sources.a]", "spool.x: unknown key"),
        (
            '"42"',
            '"42"\nseettle = "1m"',
            "sources.acme-voice.seettle: unknown key; did you mean settle?",
        ),
        ("token =", "tokn =", "sinks.splunk.tokn: unknown key; did you mean token?"),
        ("token =", "zzz =", "sinks.splunk.zzz: unknown key"),
    ],
)
def test_a_typo_is_reported_with_the_likely_name(
    old: str, new: str, problem: str, file: Path
) -> None:
    file.write_text(GOOD.replace(old, new))
    assert problem in problems(file)


@pytest.mark.parametrize("value", ["1", '"x"', "[]", "true"])
def test_sources_must_be_tables(value: str, file: Path) -> None:
    file.write_text(f"sources = {value}\n[sinks]\n")
    (problem,) = problems(file)
    assert problem.startswith("sources: must be a table")


@pytest.mark.parametrize("name", ["a__b", "-a", "a.", "ä", '"', "x" * 65, "a/b"])
def test_a_name_that_cannot_be_a_label_or_variable_is_refused(name: str, file: Path) -> None:
    file.write_text(GOOD.replace("acme-voice", json.dumps(name)))
    assert any("a name consists of letters" in problem for problem in problems(file))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "localhost:9464", "[::]:65535"])
def test_an_address_to_listen_on_is_host_and_port(listen: str, file: Path) -> None:
    assert read(file, {"AUDITRELAY_STATUS__LISTEN": listen}).status.listen == listen


@pytest.mark.parametrize("listen", ["", ":1", "h:", "h", "h:65536", "h:-1", "::1:9464", "h:1x"])
def test_a_malformed_address_to_listen_on_is_refused(listen: str, file: Path) -> None:
    (problem,) = problems(file, {"AUDITRELAY_STATUS__LISTEN": listen})
    assert problem.startswith("status.listen (from AUDITRELAY_STATUS__LISTEN): ")


def test_a_name_that_is_not_a_source_is_an_error(file: Path) -> None:
    file.write_text(GOOD + 'sources = ["acme-*", "acme-voce"]')
    assert problems(file) == [
        'sinks.splunk.sources: "acme-voce" is not a source; did you mean acme-voice?'
    ]


@pytest.mark.parametrize("pattern", ["acne-*", "acme-voic?x", "[b]*"])
def test_a_pattern_that_matches_no_source_yet_is_a_warning(pattern: str, file: Path) -> None:
    file.write_text(GOOD + f'sources = ["acme-*", "{pattern}"]')
    found = read(file)
    assert found.warnings == (f'sinks.splunk.sources: "{pattern}" matches no source yet',)
    assert found.sources_of("splunk") == ("acme-voice",)


def test_a_resweep_must_not_reach_back_beyond_spool_remember(file: Path) -> None:
    file.write_text(GOOD + '[spool]\nremember = "30d"')
    (problem,) = problems(file)
    assert problem.startswith("spool.remember: must be at least 31d for sources.acme-voice")


def test_no_enabled_source_or_sink_is_an_error_only_when_work_is_required(file: Path) -> None:
    read(file).require_work()
    found = read(file, {"AUDITRELAY_SOURCES__ACME_VOICE__ENABLED": "no"})
    with pytest.raises(
        ConfigError,
        match=r"^sources: none is enabled, so there is nothing to do; configure or enable one$",
    ):
        found.require_work()
    file.write_text('state_dir = "/x"')
    with pytest.raises(ConfigError) as caught:
        read(file).require_work()
    assert len(caught.value.problems) == 2


def test_a_sink_receives_the_sources_that_it_names(file: Path) -> None:
    more = GOOD.replace("acme-voice", "acme-calls").partition("[sinks")[0]
    file.write_text(more + GOOD + 'sources = ["*-calls"]')
    assert read(file).sources_of("splunk") == ("acme-calls",)
    file.write_text(more + GOOD)
    assert read(file).sources_of("splunk") == ("acme-calls", "acme-voice")


# --- secrets -----------------------------------------------------------------------------------


def test_references_are_resolved_in_every_text(file: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token-in-file\n")
    file.write_text(
        GOOD.replace("literal-key-1", "${env:KEY}")
        .replace("literal-token-1", "${credential:token}")
        .replace('"42"', '"org-${env:ORG}"\ntags = { a = "${env:ORG}" }')
    )
    environ = {"KEY": "key-in-env", "ORG": "42", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    found = read(file, environ)
    sink = found.sinks["splunk"]
    assert isinstance(sink, Product)
    assert vendor(found).organization_id == "org-42"
    assert vendor(found).tags == {"a": "42"}
    assert sink.token.reveal() == "token-in-file"
    (tmp_path / "token").write_text("rotated-token\n")
    assert sink.token.reload()
    assert sink.token.reveal() == "rotated-token"


def test_an_unresolved_reference_is_one_problem_and_not_two(file: Path) -> None:
    file.write_text(GOOD.replace('"vendor"', '"${env:TYPE}"').replace("https://splunk", "${env:A}"))
    assert problems(file) == [
        "sources.acme-voice.type: the environment variable TYPE is not set",
        "sinks.splunk.url: the environment variable A is not set",
    ]


def test_a_variable_overrides_an_unresolved_reference(file: Path) -> None:
    file.write_text(GOOD.replace("literal-key-1", "${env:NOPE}"))
    environ = {"AUDITRELAY_SOURCES__ACME_VOICE__API_KEY": "key-from-variable"}
    assert vendor(read(file, environ)).api_key.reveal() == "key-from-variable"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("literal-key-1", "hunter2-secret\\u0000"),
        ("literal-key-1", " hunter2-secret"),
        ('"42"', '"42"\nunknown = "hunter2-secret"'),
        ('"42"', '"42"\nregion = "${env:S}"'),
        ('"42"', '"42"\nweight = "${env:S}"'),
        ('"42"', '"42"\nsettle = "${env:S}"'),
        ('"42"', '"42"\nbase_url = "hunter2-secret"'),
        ('"42"', '"42"\nredact = { hunter2-secret = 1 }'),
        ("https://splunk.example:8088", "https://hunter2-secret@h"),
        ("https://splunk.example:8088", "https://h?token=hunter2-secret"),
        ('"literal-token-1"', '{ hunter2-secret = "hunter2-secret" }'),
        ("literal-token-1", "${env:S} "),
        ('"42"', '"42"\npage_size = { a = "hunter2-secret" }'),
        ('"vendor"', '{ a = "hunter2-secret" }'),
    ],
)
def test_no_problem_shows_a_secret(old: str, new: str, file: Path) -> None:
    file.write_text(GOOD.replace(old, new))
    text = "\n".join(problems(file, {"S": "hunter2-secret"}))
    assert text
    assert "hunter2-secret" not in text


def test_a_secret_in_the_error_of_a_component_is_hidden(file: Path) -> None:
    file.write_text(GOOD.replace('"42"', '"wrong"'))
    assert problems(file) == ["sources.acme-voice: the key *** is of another organisation"]


def test_a_configuration_never_shows_a_secret(file: Path) -> None:
    found = read(file)
    assert "literal-" not in repr(found)
    assert "literal-" not in str(found)


def test_the_log_learns_every_secret(file: Path, scrubber: Scrubber) -> None:
    read(file)
    assert scrubber.scrub("literal-key-1 and literal-token-1") == "*** and ***"


def test_a_file_with_secrets_that_other_users_can_read_is_a_warning(file: Path) -> None:
    file.chmod(0o640)
    (warning,) = read(file).warnings
    assert warning.startswith(f"{file}: other users of this machine can read its secrets")
    assert "(sources.acme-voice.api_key, sinks.splunk.token)" in warning
    assert "literal-" not in warning
    file.write_text(
        GOOD.replace("literal-key-1", "${env:A}").replace("literal-token-1", "${env:A}")
    )
    assert read(file, {"A": "key-in-env"}).warnings == ()


def test_a_secret_in_a_variable_is_not_in_the_file(file: Path) -> None:
    file.chmod(0o644)
    file.write_text(
        GOOD.replace('api_key = "literal-key-1"\n', "").replace('token = "literal-token-1"\n', "")
    )
    found = read(
        file,
        {
            "AUDITRELAY_SOURCES__ACME_VOICE__API_KEY": "key-from-env",
            "AUDITRELAY_SINKS__SPLUNK__TOKEN": "token-from-env",
        },
    )
    assert found.warnings == ()


def test_a_short_secret_and_plain_http_are_warnings(file: Path) -> None:
    file.write_text(
        GOOD.replace("literal-key-1", "abc").replace("https://", "http://")
        + "allow_insecure_http = true"
    )
    short, plain = read(file).warnings
    assert short.startswith("sources.acme-voice.api_key: a secret of fewer than 6 characters")
    assert plain.startswith("sinks.splunk: allow_insecure_http")


def test_the_token_of_the_status_port_is_a_secret_like_any_other(
    file: Path, scrubber: Scrubber
) -> None:
    file.chmod(0o640)
    file.write_text(GOOD + '\n[status]\ntoken = "literal-status-token"\n')
    found = read(file)
    assert found.status.token is not None
    assert found.status.token.reveal() == "literal-status-token"
    assert "literal-status-token" not in repr(found)
    assert "status.token" in found.warnings[0]
    assert scrubber.scrub("a literal-status-token") == "a ***"
    (problem,) = problems(file, {"AUDITRELAY_STATUS__TOKEN": "fifteen-letters"})
    assert problem == (
        "status.token (from AUDITRELAY_STATUS__TOKEN): must have at least 16 characters: "
        "a shorter one can be guessed"
    )


# --- types -------------------------------------------------------------------------------------


@pytest.mark.process
def test_only_the_types_in_use_are_imported(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[sinks.out]\ntype = "file"\npath = "-"\n')
    code = (
        "import sys; from pathlib import Path; from auditrelay.config import load;"
        f"load(Path({str(path)!r}), {{'HOME': '/h'}});"
        "print(sorted(m for m in sys.modules if m.startswith('auditrelay.sinks.')),"
        "'typer' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == (
        "['auditrelay.sinks._requests', 'auditrelay.sinks.file'] False\n",
        "",
    )


def test_every_type_has_settings_that_name_it() -> None:
    found: list[Any] = [*model.SOURCES.items(), *model.SINKS.items()]
    assert len(found) >= 6
    for name, settings in found:
        assert settings.model_fields["type"].annotation == Literal[name], name
    assert all(issubclass(settings, SourceSettings) for settings in model.SOURCES.values())
    assert all(issubclass(settings, SinkSettings) for settings in model.SINKS.values())
    with pytest.raises(KeyError):
        model.SINKS["nope"]


def test_the_schema_describes_every_key_of_every_type() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == {
        "state_dir",
        "status",
        "log",
        "alerts",
        "spool",
        "sources",
        "sinks",
    }
    for kind, members in (("sources", model.SOURCES), ("sinks", model.SINKS)):
        choices = schema["properties"][kind]["additionalProperties"]["oneOf"]
        assert choices == [{"$ref": f"#/$defs/{kind}.{name}"} for name in members]
        for name, settings in members.items():
            definition = schema["$defs"][f"{kind}.{name}"]
            assert set(definition["properties"]) == set(settings.model_fields)
            assert definition["properties"]["type"]["const"] == name
            assert "type" in definition["required"]
            assert definition["additionalProperties"] is False
    cekura = schema["$defs"]["sources.cekura"]["properties"]
    assert cekura["poll_interval"]["default"] == "5m"
    assert cekura["resweep"]["default"] == ["1h", "1d"]
    assert cekura["api_key"] == {"type": "string", "writeOnly": True}
    text = json.dumps(schema)
    assert not any(word in text for word in ('"null"', "PT5M", '"gt"', "_Whole"))
    references = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text)
    assert len(references) == len(model.SOURCES) + len(model.SINKS) + 4
    assert set(references) == set(schema["$defs"])


def test_an_empty_value_is_reported_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "auditrelay.toml"
    path.touch(mode=0o600)
    path.write_text('[sources.voice]\ntype = "cekura"\norganization_id = ""\napi_key = "key-one"\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert any(
        problem.startswith("sources.voice.organization_id: is empty")
        for problem in caught.value.problems
    )
