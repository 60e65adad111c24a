"""The loaded configuration: addresses, secrets, the sources of each sink, the types."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.config.loading import GOOD, problems, read

from auditrelay.config import model
from auditrelay.errors import ConfigError
from auditrelay.settings import SinkSettings, SourceSettings
from auditrelay.telemetry.scrubber import Scrubber


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "localhost:9464", "[::]:65535"])
def test_an_address_to_listen_on_is_host_and_port(listen: str, file: Path) -> None:
    assert read(file, {"AUDITRELAY_STATUS__LISTEN": listen}).status.listen == listen


@pytest.mark.parametrize("listen", ["", ":1", "h:", "h", "h:65536", "h:-1", "::1:9464", "h:1x"])
def test_a_malformed_address_to_listen_on_is_refused(listen: str, file: Path) -> None:
    (problem,) = problems(file, {"AUDITRELAY_STATUS__LISTEN": listen})
    assert problem.startswith("status.listen (from AUDITRELAY_STATUS__LISTEN): ")


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


def test_a_configuration_never_shows_a_secret(file: Path) -> None:
    found = read(file)
    assert "literal-" not in repr(found)
    assert "literal-" not in str(found)


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
