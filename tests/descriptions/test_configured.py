"""Described sources in the configuration: types, files, feeds, and what is read of them when."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.descriptions.acme import PARTS, text, write

from auditrelay import sources
from auditrelay.cli import init
from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.config.schema import json_schema
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.errors import ConfigError
from auditrelay.telemetry import scrubber

SINK = '[sinks.out]\ntype = "file"\npath = "-"\n'
HOOLI = '[sources.it]\ntype = "hooli"\ndomain = "eu.acme.example"\ntoken = "${env:TOKEN}"\n'
REST = (
    '[sources.crm]\ntype = "rest"\ndescription = "acme.toml"\ndomain = "eu.acme.example"\n'
    'token = "${env:TOKEN}"\n'
)
ENVIRON = {"HOME": "/home/op", "TOKEN": "a-pretend-token"}


def read(folder: Path, tables: str, environ: dict[str, str] | None = None) -> Config:
    """Return the configuration with the *tables* of sources, in *folder*."""
    file = write(folder, tables + SINK, "auditrelay.toml")
    return load(file, {**ENVIRON, **(environ or {})})


def problems(folder: Path, tables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, tables)
    return list(caught.value.problems)


def described(found: Config, name: str) -> DescribedSettings:
    settings = found.sources[name]
    assert isinstance(settings, DescribedSettings)
    return settings


@pytest.mark.usefixtures("shipped")
def test_a_shipped_description_is_a_type(tmp_path: Path, own_scrubber: scrubber.Scrubber) -> None:
    settings = described(read(tmp_path, HOOLI), "it")
    assert (settings.type, settings.vendor, settings.product) == ("hooli", "hooli", "Hooli")
    assert settings.base_url == "https://eu.acme.example"
    assert "pretend" not in own_scrubber.scrub("is a-pretend-token shown?")


def test_a_file_of_the_operators_is_relative_to_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, text())
    settings = described(read(tmp_path, REST), "crm")
    assert (settings.type, settings.vendor) == ("rest", "acme")
    absolute = REST.replace("acme.toml", str(tmp_path / "acme.toml"))
    assert described(read(tmp_path, absolute), "crm").vendor == "acme"


def test_a_variable_can_set_every_key(tmp_path: Path) -> None:
    write(tmp_path, text())
    variables = {
        "AUDITRELAY_SOURCES__CRM__DOMAIN": "us.acme.example",
        "AUDITRELAY_SOURCES__CRM__PAGE_SIZE": "7",
    }
    settings = described(read(tmp_path, REST, variables), "crm")
    assert (settings.values["domain"], settings.page_size) == ("us.acme.example", 7)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (
            HOOLI.replace('"hooli"', '"hoolie"'),
            (
                'sources.it.type: unknown type "hoolie"; did you mean hooli? (known: '
                f"{', '.join(sources.available())}, rest and 1 that `auditrelay description list` "
                "shows)"
            ),
        ),
        (HOOLI.replace("domain", "domian"), "sources.it.domian: unknown key; did you mean dom"),
        (HOOLI.replace("eu.acme", "EU"), 'sources.it.domain: must look like "eu.acme.example"'),
        (HOOLI.replace("TOKEN", "NOPE"), "sources.it.token: the environment variable NOPE is"),
        (
            REST.replace('description = "acme.toml"\n', ""),
            "sources.crm.description: is missing: write the path of the file that describes",
        ),
        (
            REST.replace("acme.toml", ""),
            "sources.crm.description: is empty: write the path of the file that describes the API",
        ),
        (
            REST.replace('"acme.toml"', "5"),
            "sources.crm.description: must be a text: the path of a file",
        ),
        (
            REST.replace("acme.toml", "nope.toml"),
            "sources.crm.description: {folder}/nope.toml: cannot be read: No such file or direct",
        ),
        (
            REST.replace("acme.toml", "a\\u0000b"),
            "sources.crm.description: ",
        ),
        (
            REST.replace("acme.toml", "~no-such-user/acme.toml"),
            "sources.crm.description: '~no-such-user/acme.toml': no such user has a home folder",
        ),
        (
            REST.replace("acme.toml", "${env:NOPE}"),
            "sources.crm.description: the environment variable NOPE is not set",
        ),
        (
            REST.replace("acme.toml", "bad.toml"),
            "{folder}/bad.toml: pages.largest: has no use without size, the slot of the page size",
        ),
    ],
)
def test_a_wrong_source_is_one_line_with_its_key(tables: str, problem: str, tmp_path: Path) -> None:
    write(tmp_path, text())
    bad = PARTS["pages"].replace('size = "query:limit"\n', "")
    write(tmp_path, text(pages=bad), "bad.toml")
    found = problems(tmp_path, tables)
    assert any(line.startswith(problem.format(folder=tmp_path)) for line in found), found
    assert not any("pretend" in line or "\n" in line for line in found)


def test_a_shipped_file_that_was_changed_is_reported_with_its_name(
    shipped: Path, tmp_path: Path
) -> None:
    file = shipped / "hooli.toml"
    file.write_text(file.read_text().replace("[time]", "[times]"))
    assert problems(tmp_path, HOOLI) == [
        f"{file}: times: unknown key; did you mean time?",
        f"{file}: time: is missing",
    ]
    file.chmod(0o666)
    [problem] = problems(tmp_path, HOOLI)
    assert problem.startswith(f"{file}: every user of this machine can write it")


def test_a_file_that_two_sources_name_is_reported_once(tmp_path: Path) -> None:
    write(tmp_path, text(time=""))
    assert problems(tmp_path, REST + REST.replace("crm", "hr")) == [
        f"{tmp_path}/acme.toml: time: is missing"
    ]


FEEDS = text(
    request="",
    feeds='[feeds.a.request]\nbase_url = "https://{domain}"\npath = "/a"\n'
    '[feeds.b.request]\nbase_url = "https://{domain}"\npath = "/b"\n[feeds.b.pages]\n'
    'kind = "none"\nsize = "query:max"\nlargest = 7\n',
)


def test_each_feed_is_a_source_with_its_own_tables(tmp_path: Path) -> None:
    write(tmp_path, FEEDS)
    a, b = REST + 'feed = "a"\n', REST.replace("crm", "hr") + 'feed = "b"\n'
    found = read(tmp_path, a + b)
    assert [described(found, name).vendor_key for name in ("crm", "hr")] == ["acme:a", "acme:b"]
    assert [described(found, name).page_size for name in ("crm", "hr")] == [100, 7]
    assert problems(tmp_path, REST) == ['sources.crm.feed: is missing: write "a" or "b"']
    assert problems(tmp_path, REST + 'feed = "c"\n') == [
        'sources.crm.feed: must be "a" or "b", not "c"'
    ]


def test_two_sources_of_one_vendor_must_agree_on_ids(tmp_path: Path) -> None:
    write(tmp_path, text())
    write(tmp_path, text(records=PARTS["records"].replace('"id"', '"uuid"')), "other.toml")
    other = REST.replace("crm", "hr").replace("acme.toml", "other.toml")
    [problem] = problems(tmp_path, REST + other)
    assert problem.startswith(
        "sources.hr: its records are known by other ids than those of sources.crm, which is of the "
        'same vendor, "acme"'
    )


def test_notes_are_warnings(tmp_path: Path) -> None:
    time = PARTS["time"].rstrip() + '\norder = "newest_first"\nlongest = "1d"\n'
    write(tmp_path, text(time=time))
    assert read(tmp_path, REST + 'max_window = "3d"\n').warnings == (
        (
            "sources.crm.max_window: the vendor accepts windows of 1d at most, so that is used "
            "instead of 3d"
        ),
        (
            f"sources.crm.description: {tmp_path}/acme.toml: time.order: saves no request here: "
            "both bounds of a window are asked for"
        ),
    )


def test_a_reload_sees_that_a_description_has_changed_and_that_it_has_not(tmp_path: Path) -> None:
    """A source is made again if its settings are not equal to those before."""
    write(tmp_path, text())
    before = read(tmp_path, REST).sources["crm"]
    assert read(tmp_path, REST).sources["crm"] == before
    write(tmp_path, text(request=PARTS["request"].replace("/v1/", "/v2/")))
    after = read(tmp_path, REST).sources["crm"]
    assert after != before
    assert described(read(tmp_path, REST), "crm").FEED.request.path == "/v2/logs"


# --- replacing a shipped one -------------------------------------------------

REPLACING = PARTS["top"].replace('"acme"', '"hooli"') + 'replaces = "hooli"\n'


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({}, None),
        ({"request": PARTS["request"].replace("/v1/", "/v2/")}, None),
        (
            {"top": REPLACING.replace('vendor = "hooli"', 'vendor = "acme"')},
            (
                'vendor: must be "hooli", as in hooli, or known events would get new ids and '
                "be forwarded again"
            ),
        ),
        (
            {"records": PARTS["records"].replace('id = "id"', 'id = ["id", "uuid"]')},
            'records.id: must be ["id"], as in hooli, or',
        ),
        (
            {"records": PARTS["records"] + 'split = "events"\n'},
            "records.split: must be left out, as in hooli, or",
        ),
        (
            {"settings": PARTS["settings"].replace("domain", "host").replace("scope = true", "")},
            'settings: what ids are unique in must be ["domain"], as in hooli, or',
        ),
        (
            {"feeds": '[feeds.a]\nabout = "x"\n'},
            "feeds: must be left out, as in hooli, or known",
        ),
        ({"top": PARTS["top"].replace('"acme"', '"hooli"')}, 'vendor: "hooli" is the name of'),
    ],
)
def test_a_file_that_replaces_a_shipped_one_keeps_its_ids(
    parts: dict[str, str], problem: str | None, tmp_path: Path
) -> None:
    parts = {"top": REPLACING, **parts}
    if "host" in parts.get("settings", ""):
        parts["request"] = PARTS["request"].replace("{domain}", "{host}")
    write(tmp_path, text(**parts))
    if problem is None:
        settings = described(read(tmp_path, REST), "crm")
        assert (settings.vendor, settings.type) == ("hooli", "rest")
    else:
        [found] = problems(tmp_path, REST)
        assert found.startswith(f"{tmp_path}/acme.toml: {problem}")


# --- what else knows of types ------------------------------------------------


@pytest.mark.usefixtures("shipped")
def test_the_schema_of_the_configuration_has_described_types() -> None:
    schema = json_schema()
    keys = schema["$defs"]["sources.hooli"]
    assert keys["properties"]["token"] == {
        "description": "The token.",
        "type": "string",
        "writeOnly": True,
    }
    assert keys["properties"]["page_size"]["maximum"] == 100
    assert set(keys["required"]) == {"type", "domain", "token"}
    rest = schema["$defs"]["sources.rest"]
    assert (set(rest["required"]), rest["additionalProperties"]) == ({"type", "description"}, True)
    json.dumps(schema)


@pytest.mark.usefixtures("shipped")
def test_init_writes_the_tables_that_are_asked_for(tmp_path: Path) -> None:
    written = init.starter(["hooli", "cekura"], ["splunk"])
    assert "\n".join(line for line in written.splitlines() if line[:1] in ("[", "t", "d")) == (
        '[status]\n[sources.acme-hooli]\ntype = "hooli"\ndomain = ""\n'
        'token = "${env:HOOLI_TOKEN}"\n'
        '[sources.acme-voice]\ntype = "cekura"\n[sinks.splunk]\ntype = "splunk_hec"\n'
        'token = "${env:SPLUNK_HEC_TOKEN}"'
    )
    assert "# The organisation's domain.\ndomain" in written
    file = write(tmp_path, written.replace('""', '"https://eu.acme.example"'), "a.toml")
    with pytest.raises(ConfigError) as caught:
        load(file, {**ENVIRON, "HOOLI_TOKEN": "x" * 20})
    keys = {problem.partition(":")[0] for problem in caught.value.problems}
    assert "sources.acme-hooli.domain" in keys, "an address is no domain"


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ("hoolie", "--source hoolie: is not a type of source; did you mean hooli?"),
        ("ce", "--source ce: is not a type of source; did you mean|known: cekura, cencori"),
    ],
)
def test_init_refuses_a_type_that_does_not_exist(chosen: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem.replace(" ", r"\s")):
        init.starter([chosen])


def test_init_for_any_other_api_names_the_file() -> None:
    assert 'type = "rest"' in init.starter(["rest"])


# --- what it costs -----------------------------------------------------------

LOADED = """
import sys
from pathlib import Path
from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.supervisor.sinks import make_sink
from auditrelay.supervisor.sources import make_source
from auditrelay.service import app
from auditrelay.telemetry.metrics import Metrics
config = load(Path(sys.argv[1]), {"HOME": "/h", "TOKEN": "a-pretend-token"})
for name, settings in config.sources.items():
    make_source(name, settings, Metrics(), Clock(), Path("/nowhere"))
for name, settings in config.sinks.items():
    make_sink(name, settings, Metrics(), Clock())
costly = (
    *("auditrelay.descriptions", "auditrelay.sources.described", "auditrelay.sinks.described"),
    "auditrelay.sandbox",
)
costly += ("ahocorasick_rs", "cryptography")
print(*sorted(name for name in sys.modules if name.startswith(costly)))
"""


@pytest.mark.process
def test_without_a_described_source_a_start_imports_nothing_of_the_language_and_no_search(
    tmp_path: Path,
) -> None:
    bland = '[sources.calls]\ntype = "bland"\napi_key = "${env:TOKEN}"\n'
    file = write(tmp_path, bland + SINK, "a.toml")
    ran = subprocess.run(  # our own code
        [sys.executable, "-c", LOADED, str(file)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["auditrelay.descriptions"]
