"""Every problem is reported at once, with its key, the likely fix, and no secret."""

import json
from pathlib import Path

import pytest
from tests.config.loading import GOOD, Product, problems, read, vendor

from auditrelay.config import load
from auditrelay.errors import ConfigError


def test_a_misspelled_sink_in_a_variable_is_reported_with_the_likely_name(file: Path) -> None:
    (problem,) = problems(file, {"AUDITRELAY_SINKS__SPLNK__TOKEN": "hunter2-token"})
    assert problem == "sinks.splnk.type: is missing; did you mean splunk? (known: product)"


def test_all_problems_are_reported_at_once(file: Path) -> None:
    file.write_text("""
        state_dri = "/x"
        store = "mysql://u:hunter2@h/db"
        replica = "a b"
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
                "store: is not an address of PostgreSQL: write "
                '"postgresql://relay@db1.example.com/auditrelay"; without the key SQLite in '
                "state_dir is used"
            ),
            (
                "replica: a name consists of letters, digits and single - _ . between them, at "
                "most 64"
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


def test_a_key_with_a_line_end_stays_on_its_line(file: Path) -> None:
    file.write_text(GOOD + '"a\\nb\\u001b[2J" = 1\n')
    assert problems(file) == [r"sinks.splunk.a\nb\x1b[2J: unknown key"]


@pytest.mark.parametrize("value", ["1", '"x"', "[]", "true"])
def test_sources_must_be_tables(value: str, file: Path) -> None:
    file.write_text(f"sources = {value}\n[sinks]\n")
    (problem,) = problems(file)
    assert problem.startswith("sources: must be a table")


@pytest.mark.parametrize("name", ["a__b", "-a", "a.", "ä", '"', "x" * 65, "a/b"])
def test_a_name_that_cannot_be_a_label_or_variable_is_refused(name: str, file: Path) -> None:
    file.write_text(GOOD.replace("acme-voice", json.dumps(name)))
    assert any("a name consists of letters" in problem for problem in problems(file))


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
        ("\n", '\nstore = "postgresql://u:hunter2-secret@h"\n'),
        ("\n", '\nstore = "postgresql://u:hunter2-secret@h/d?sslmode=prefer"\n'),
        ("\n", '\nstore = "postgresql://u:hunter2-secret@h:x/d"\n'),
        ("\n", '\nstore = "postgresql://u:${env:S}@h/d?hunter2-secret=1"\n'),
        ("\n", '\nstore = "postgresql://u:hunter2-secret /@h/d"\n'),
    ],
)
def test_no_problem_shows_a_secret(old: str, new: str, file: Path) -> None:
    file.write_text(GOOD.replace(old, new, 1))
    text = "\n".join(problems(file, {"S": "hunter2-secret"}))
    assert text
    assert "hunter2-secret" not in text


def test_a_secret_in_the_error_of_a_component_is_hidden(file: Path) -> None:
    file.write_text(GOOD.replace('"42"', '"wrong"'))
    assert problems(file) == ["sources.acme-voice: the key *** is of another organisation"]


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


def test_a_source_may_not_have_the_name_of_the_alerts(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[sources.auditrelay]\ntype = "bland"\napi_key = "some-key-1"\n[sinks.out]\ntype = "file"\n'
        'path = "-"\n'
    )
    with pytest.raises(ConfigError, match="choose another"):
        load(file, {})
