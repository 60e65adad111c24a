"""Variables of the environment, which override the file key by key."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from tests.config.loading import GOOD, Product, problems, read, vendor


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


def test_a_variable_overrides_an_unresolved_reference(file: Path) -> None:
    file.write_text(GOOD.replace("literal-key-1", "${env:NOPE}"))
    environ = {"AUDITRELAY_SOURCES__ACME_VOICE__API_KEY": "key-from-variable"}
    assert vendor(read(file, environ)).api_key.reveal() == "key-from-variable"


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("SOURCES__ACME_VOICE__TAGS", '{"a": "\udcfc"}', "sources.acme-voice.tags"),
        ("SOURCES__ACME_VOICE__TAGS", r'{"a": "\ud800"}', "sources.acme-voice.tags"),
        ("SOURCES__ACME_VOICE__ORGANIZATION_ID", "4\udcfc2", "sources.acme-voice.organization_id"),
        ("SOURCES__ACME_VOICE__API_KEY", "${env:ODD}", "sources.acme-voice.api_key"),
        ("SINKS__SPLUNK", r'{"type": "product", "url": "\ud800"}', "sinks.splunk.url"),
        ("STATE_DIR", "/tmp/\udcfc", "state_dir"),
    ],
)
def test_what_is_not_utf_8_is_an_error_that_names_the_key(
    file: Path, variable: str, value: str, problem: str
) -> None:
    found = problems(file, {f"AUDITRELAY_{variable}": value, "ODD": "key\udcfc"})
    assert any(each.startswith(problem) for each in found), found


def test_a_state_directory_that_the_system_names_must_be_utf_8(file: Path) -> None:
    assert problems(file, {"STATE_DIRECTORY": "/tmp/\udcfc"}) == [
        r"state_dir: '/tmp/\udcfc' is not text in UTF-8"
    ]
