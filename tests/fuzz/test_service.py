"""
The whole service among peers that answer anything: it lives, and the others go on.

Once they are sane again, the odd peers work like all others.
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.fuzz.odd_replies import OddReplies
from tests.support.daemon import Daemon, configure, eventually, intakes, sinks, sources

from auditrelay.sandbox import Sandbox, vendors

pytestmark = [pytest.mark.process, pytest.mark.slow]

SEED = int(os.environ["FUZZ_SEED"])
SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))

PAIRS = [("jitsudo", "splunk"), ("slaunch", "elastic"), ("cencori", "datadog"), ("bland", "splunk")]
"""Which vendor and which SIEM are odd at the same time; Cekura and the other SIEMs stay sane."""


@pytest.mark.parametrize(("vendor", "siem"), PAIRS)
async def test_what_one_peer_answers_costs_no_other_peer_anything(
    tmp_path: Path, vendor: str, siem: str
) -> None:
    assert {vendor for vendor, _ in PAIRS} | {"cekura"} == set(vendors.available())
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        odd_vendor, odd_siem = sandbox.vendors[vendor], sandbox.siems[siem]
        for double in (sandbox.cekura, odd_vendor):
            double.fill(200, now - timedelta(minutes=30), now)
        OddReplies(SEED).play_at(odd_vendor)
        OddReplies(SEED + 1).play_at(odd_siem)
        tables = sources(sandbox, of=["cekura", vendor], timeout="500ms")
        config = configure(tmp_path, tables, sinks(sandbox, timeout="500ms"))
        async with Daemon(config, speed=100) as daemon:
            sane = {name: stored for name, stored in intakes(sandbox).items() if name != siem}
            over = asyncio.get_running_loop().time() + SECONDS
            while asyncio.get_running_loop().time() < over:
                sandbox.cekura.add(datetime.now(UTC))
                wanted = list(sandbox.cekura.history.ids())
                await eventually(
                    lambda: not any(stored.lost(wanted) for stored in sane.values()),  # noqa: B023
                    what="a sane source is delivered to sane sinks",
                )
                assert (await daemon.get("/healthz")).status_code == 200
            odd_vendor.faults.clear()
            odd_siem.faults.clear()
            # What the odd vendor has denied to have is lost to everybody; what is new is not.
            new = odd_vendor.add(datetime.now(UTC))
            made = [*sandbox.cekura.history.ids(), new]
            for name, stored in intakes(sandbox).items():
                await eventually(
                    lambda: not stored.lost(made),  # noqa: B023
                    what=f"all is in {name}",
                )
            assert daemon.process.returncode is None
            assert len(daemon.logged("started")) == 1
        assert intakes(sandbox)["elastic"].repeated() == {}
