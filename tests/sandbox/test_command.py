"""``python -m auditrelay.sandbox``: addresses first, the totals last."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from auditrelay.evidence.heads import Head
from auditrelay.sandbox import vendors

pytestmark = pytest.mark.process


def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "auditrelay.sandbox", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("ending", ["stdin", "SIGTERM"])
@pytest.mark.parametrize("extra", [(), ("--record-bytes", "700", "--lean", "--page-cap", "1000")])
def test_the_sandbox_serves_and_prints_totals(ending: str, extra: tuple[str, ...]) -> None:
    process, addresses = start("--events", "300", "--span", "2h", "--vendor", "bland", *extra)
    key = {"authorization": addresses["bland"]["api_key"]}
    page = httpx.get(
        f"{addresses['bland']['url']}/v1/audit/logs?page_size=1000", headers=key
    ).json()
    data = page["data"]
    assert data["total"] == 300
    assert len(data["events"]) == (300 if extra else 100)
    native = [row["id"] for row in data["events"]]
    events = [
        {
            "event": {"native_event_id": one, "event_id": f"u-{one}"},
            "fields": {"event_id": f"u-{one}"},
        }
        for one in [*native[:40], native[0], "stranger"]
    ]
    reply = httpx.post(
        f"{addresses['splunk']['url']}/services/collector/event",
        content="".join(json.dumps(event, separators=(",", ":")) for event in events),
        headers={"Authorization": f"Splunk {addresses['splunk']['token']}"},
    )
    assert reply.status_code == 200
    if ending == "SIGTERM":
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    out, problems = process.communicate(timeout=10)  # closes its standard input
    assert (process.returncode, problems) == (0, "")
    totals = json.loads(out)
    assert totals["made"]["bland"] == {"events": 300, "requests": 1, "served": len(native)}
    splunk = totals["stored"]["splunk"]
    assert (splunk["events"], splunk["uids"], splunk["repeated"]) == (42, 41, 1)
    assert splunk["lost"] == {name: 260 if name == "bland" else 0 for name in vendors.available()}
    assert (splunk["repeated_uids"], splunk["unknown"]) == ([f"u-{native[0]}"], 1)
    assert native[0] not in splunk["lost_ids"]["bland"]


@pytest.mark.parametrize("extra", [(), ("--lean",)])
def test_a_head_of_the_evidence_is_no_event_that_a_vendor_had(extra: tuple[str, ...]) -> None:
    head = Head("ab" * 16, 7, bytes(32))
    process, addresses = start("--events", "30", *extra)
    event = {
        "event": {
            "event_id": head.uid,
            "signature": "auditrelay.ledger_sealed",
            "description": f"Ledger sealed: 7 entries, head {head.word}",
        },
        "fields": {"event_id": head.uid},
    }
    httpx.post(
        f"{addresses['splunk']['url']}/services/collector/event",
        content=json.dumps(event, separators=(",", ":")),
        headers={"Authorization": f"Splunk {addresses['splunk']['token']}"},
    ).raise_for_status()
    out, problems = process.communicate(timeout=20)
    assert (process.returncode, problems) == (0, "")
    splunk = json.loads(out)["stored"]["splunk"]
    assert (splunk["events"], splunk["uids"]) == (0, 0)


def test_a_bad_duration_is_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "auditrelay.sandbox", "--span", "soon"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "write a number and s, m, h or d" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_described_vendor_is_there_if_it_is_named_with_each_of_its_feeds() -> None:
    process, addresses = start("--events", "30", "--vendor", "okta", "--vendor", "entra")
    described = {"okta", "entra.directory_audits", "entra.sign_ins"}
    assert described <= addresses.keys()
    okta = addresses["okta"]
    found = httpx.get(
        f"{okta['base_url']}/api/v1/logs",
        params={
            "since": "2026-01-01T00:00:00.000Z",
            "until": "2126-01-01T00:00:00.000Z",
            "sortOrder": "ASCENDING",
        },
        headers={"authorization": f"SSWS {okta['token']}"},
    )
    assert len(found.json()) == 30
    event = {"event": {"native_event_id": found.json()[0]["uuid"]}, "fields": {"event_id": "u"}}
    httpx.post(
        f"{addresses['splunk']['url']}/services/collector/event",
        json=event,
        headers={"Authorization": f"Splunk {addresses['splunk']['token']}"},
    )
    out, problems = process.communicate(timeout=20)
    assert (process.returncode, problems) == (0, "")
    totals = json.loads(out)
    made = {name: its["events"] for name, its in totals["made"].items()}
    assert made == {name: 30 if name in described else 0 for name in made}
    lost = totals["stored"]["splunk"]["lost"]
    assert {name: lost[name] for name in described} == {**dict.fromkeys(described, 30), "okta": 29}


def test_a_described_vendor_serves_a_load_of_records_like_those_of_a_sample(
    tmp_path: Path,
) -> None:
    sample = tmp_path / "sample.json"
    records = [{"uuid": "a", "published": "x", "eventType": kind} for kind in ("one", "two")]
    sample.write_text(json.dumps(records))
    process, addresses = start(
        *("--events", "5000", "--vendor", "okta", "--record-bytes", "700", "--lean"),
        *("--sample", str(sample)),
    )
    okta = addresses["okta"]
    found = httpx.get(
        f"{okta['base_url']}/api/v1/logs",
        params={
            "since": "2026-01-01T00:00:00.000Z",
            "until": "2126-01-01T00:00:00.000Z",
            "sortOrder": "ASCENDING",
            "limit": "1000",
        },
        headers={"authorization": f"SSWS {okta['token']}"},
    )
    shown = found.json()
    assert len({record["uuid"] for record in shown}) == 1000
    assert {record["eventType"] for record in shown} == {"one", "two"}
    assert [record["published"] for record in shown] == sorted(each["published"] for each in shown)
    assert min(len(json.dumps(record, separators=(",", ":"))) for record in shown) >= 690
    following = httpx.get(found.links["next"]["url"], headers=found.request.headers).json()
    assert not {record["uuid"] for record in following} & {record["uuid"] for record in shown}
    assert following[0]["published"] >= shown[-1]["published"]
    process.send_signal(signal.SIGTERM)
    out, problems = process.communicate(timeout=20)
    assert (process.returncode, problems) == (0, "")
    totals = json.loads(out)
    assert totals["made"]["okta"] == {"events": 5000, "requests": 2, "served": 2000}
    assert "okta" not in totals["stored"]["splunk"]["lost"], "nothing is compared"


def test_an_intake_that_does_not_exist_is_named() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "auditrelay.sandbox", "--siem", "nope"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert made.returncode == 2
    assert made.stderr.endswith("argument --siem: 'nope': no such intake, and no such file\n")
