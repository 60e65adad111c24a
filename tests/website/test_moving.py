"""Moving over as docs/moving/index.md says it: no gap, and nothing twice but T itself."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.daemon import Daemon, command, configure, eventually, sinks

from auditrelay.sandbox import Sandbox

PAGE = (Path(__file__).parents[2] / "docs" / "moving" / "index.md").read_text("utf-8")
EVENTS = 120
KNOWN = 70
"""So many events has the old tool forwarded, the last of them at T."""


def test_the_page_has_the_commands_that_are_run_here() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    shown = "".join(blocks).splitlines()
    assert [line.split(" --from")[0] for line in shown] == [
        "auditrelay run",
        "auditrelay backfill acme-okta",
        "auditrelay coverage acme-okta",
        "auditrelay verify acme-okta",
    ]
    assert 'initial_lookback = "0s"' in PAGE


async def test_from_the_newest_event_of_the_old_tool_everything_is_there_once(
    tmp_path: Path,
) -> None:
    async with Sandbox(only=["okta"]) as sandbox:
        okta, splunk = sandbox.vendors["okta"], sandbox.siems["splunk"]
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
        okta.fill(EVENTS, start, start + timedelta(seconds=EVENTS * 50))
        ids = list(okta.known_ids())
        handed_over = (start + timedelta(seconds=(KNOWN - 1) * 50)).isoformat()
        table = {
            **okta.settings(),
            "initial_lookback": "0s",
            "poll_interval": "1s",
            "settle": "1s",
            "resweep": [],
        }
        config = configure(tmp_path, {"acme-okta": table}, {"splunk": sinks(sandbox)["splunk"]})

        async def spans() -> list[dict[str, str]]:
            ended = await command(config, "coverage", "acme-okta", "--json")
            found: list[dict[str, str]] = json.loads(ended.stdout)["spans"]
            return found

        async with Daemon(config):
            await eventually(spans, what="time that was read")
            assert splunk.stored.total == 0
            ended = await command(config, "backfill", "acme-okta", "--from", handed_over)
            assert ended.status == 0, ended.stderr
            await eventually(lambda: not splunk.stored.lost(ids[KNOWN - 1 :]))
            verified = await command(config, "verify", "acme-okta", "--from", handed_over)
            assert "nothing is missing" in verified.stdout
            read = await spans()
        assert {span["state"] for span in read} == {"covered"}
        assert len(merged(read)) == 1
    assert set(splunk.stored.by_native_id) == set(ids[KNOWN - 1 :])
    assert not splunk.stored.repeated()


def merged(spans: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Return *spans* with those that touch as one."""
    found: list[tuple[str, str]] = []
    for span in sorted(spans, key=lambda each: each["start"]):
        if found and span["start"] <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], span["end"]))
        else:
            found.append((span["start"], span["end"]))
    return found
