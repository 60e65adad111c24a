"""``auditrelay status``: the findings are below the tables, in the words of the status page."""

import sys
from pathlib import Path

import pytest
from tests.support.stages import staged

from auditrelay.cli.status import _print


async def test_what_is_wrong_and_what_to_do_are_printed_as_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with staged("sink-down", tmp_path) as instance:
        state = await instance.status()
    _print(state)
    lines = capsys.readouterr().out.splitlines()
    error = next(sink.last_error for sink in state.sinks if sink.name == "splunk")
    assert error
    assert f"last error of splunk: {error}" in lines
    (at,) = [number for number, line in enumerate(lines) if line.startswith("ACTION REQUIRED: ")]
    since = state.findings[0].since
    assert since is not None
    assert (
        lines[at]
        == f"ACTION REQUIRED: splunk cannot be reached. (since {since[5:10]} {since[11:19]}Z)"
    )
    assert lines[at + 1] == (
        "    Nothing is lost: 330 events wait in the spool. It is retried automatically."
    )
    assert lines[at + 3] == "    $ auditrelay -c /etc/auditrelay/config.toml check"


async def test_where_all_is_well_nothing_is_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with staged("healthy", tmp_path) as instance:
        _print(await instance.status())
    assert capsys.readouterr().out.splitlines()[-1].startswith("spool: ")


async def test_on_a_narrow_terminal_names_and_times_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # no codes of colours; 80 columns
    async with staged("healthy", tmp_path) as instance:
        state = await instance.status()
    _print(state)
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    for source in state.sources:
        assert f"│ {source.name} " in out
        assert source.last_fetched_timestamp is not None
        assert f"{source.last_fetched_timestamp[11:19]}Z" in out
