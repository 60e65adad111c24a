"""The status page as text: whole, escaped, without secrets, and true to the report."""

from collections import Counter
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.support.stages import ENVIRON, SECRET, STAGES, stage, staged

from auditrelay.evidence.heads import Head
from auditrelay.status.model import AnyPeer, Credential, EvidenceStatus, Finding, Report
from auditrelay.status.page import page
from auditrelay.status.page.diagram import MOST
from auditrelay.store.conditions import SinkCondition, SourceCondition

VOID = {"link", "meta"}
EVIL = """<script>alert(1)</script>"' onload=x {x} &amp;"""


class Outline(HTMLParser):
    """The elements of a page, by name with their attributes; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def classes(self) -> Counter[str]:
        return Counter(
            name for _, found in self.elements for name in (found.get("class") or "").split()
        )


@pytest.mark.parametrize("name", STAGES)
async def test_it_contains_nothing_that_the_security_policy_forbids_and_no_secret(
    name: str, tmp_path: Path
) -> None:
    async with staged(name, tmp_path) as instance:
        text = page(await instance.status())
    outline = Outline(text)
    for tag, attributes in outline.elements:
        assert tag != "style"
        assert "style" not in attributes
        assert not any(key.startswith("on") for key in attributes)
        assert tag != "script" or attributes["src"]
        for key in ("src", "href"):
            assert not (attributes.get(key) or "").startswith(("http", "//", "/", "data", "java"))
    assert SECRET not in text
    # The events of the stages are about Dana; the page shows none of what they contain.
    assert "dana" not in text.lower()
    assert "pathway" not in text
    ids = Counter(found["id"] for _, found in outline.elements if "id" in found)
    assert set(ids.values()) == {1}
    for _, attributes in outline.elements:
        target = attributes.get("href") or ""
        assert not target.startswith("#") or target[1:] in ids


async def test_names_and_error_messages_of_peers_stay_text(tmp_path: Path) -> None:
    async with stage(tmp_path) as instance:
        await instance.source("acme-voice", up=False, held=True, last_error=EVIL)
        shown = await instance.status()
    evil = replace(
        shown,
        version=EVIL,
        sources=tuple(replace(row, name=EVIL + row.name, type=EVIL) for row in shown.sources),
        sinks=tuple(replace(row, name=EVIL + row.name, type=EVIL) for row in shown.sinks),
        findings=tuple(
            replace(each, name=EVIL, what=EVIL, effect=EVIL, do=EVIL, command=EVIL, error=EVIL)
            for each in shown.findings
        ),
    )
    outline = Outline(page(evil))
    assert [found for tag, found in outline.elements if tag == "script"] == [
        {"src": "static/page.js", "defer": None}
    ]
    assert not any("onload" in found for _, found in outline.elements)
    assert outline.text.count(EVIL) > 20


async def test_the_timeline_shows_what_was_read_what_is_a_gap_and_what_came_late(
    tmp_path: Path,
) -> None:
    async with staged("gap", tmp_path) as instance:
        shown = await instance.status()
        assert shown.sources[0].gap_seconds == 9 * 3600
        text = page(shown)
    article = text.partition('id="source-acme-voice"')[2].partition("</article>")[0]
    outline = Outline(f"<p {article}</p>")
    drawn = [found for tag, found in outline.elements if tag == "rect"]
    (gap,) = [found for found in drawn if found["class"] == "gap"]
    # It is between 3 days 5 hours and 2 days 20 hours ago, of 7 days.
    assert float((gap["x"] or "").strip("%")) == pytest.approx(100 * (1 - 77 / 168), abs=0.1)
    assert float((gap["width"] or "").strip("%")) == pytest.approx(100 * 9 / 168, abs=0.1)
    assert outline.classes()["late"] == 3
    covered = [found for found in drawn if found["class"] == "covered"]
    width = sum(float((found["width"] or "").strip("%")) for found in covered)
    assert width == pytest.approx(100 * (1 - 9 / 168), abs=0.6)
    assert "gap: catch up limit" in outline.text
    assert "found late (resweep 24h)" in outline.text


async def test_a_gap_older_than_the_timeline_is_still_shown(tmp_path: Path) -> None:
    async with stage(tmp_path) as instance:
        start = instance.now - timedelta(days=8, hours=20)
        await instance.gap("acme-voice", start, start + timedelta(hours=2))
        shown = await instance.status()
        assert "acme-voice was not read for 2 h" in Outline(page(shown)).text
        instance.now += timedelta(days=23)
        assert "was not read" not in Outline(page(await instance.status())).text


async def test_many_sources_and_sinks_are_drawn_in_bounds_and_problems_first(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as instance:
        shown = await instance.status()
    (like,) = [row for row in shown.sources if row.name == "acme-voice"]
    many = replace(
        shown,
        sources=tuple(replace(like, name=f"source-{number}") for number in range(60)),
        findings=(Finding("action_required", "source", "source-57", "It is wrong."),),
    )
    text = page(many)
    outline = Outline(text)
    assert outline.classes()["peer"] == 63
    flow = Outline("<p " + text.partition('class="flow"')[2].partition("</figure>")[0] + "</p>")
    assert flow.classes()["line"] == MOST + 3
    assert flow.classes()["node"] == MOST + 1 + 3
    assert "source-57" in flow.text
    assert f"and {60 - MOST + 1} more" in flow.text


async def test_an_instance_that_has_not_run_yet_has_a_page_too(tmp_path: Path) -> None:
    async with stage(tmp_path) as instance:
        for name in ("acme-voice", "acme-calls", "acme-access"):
            await instance.store.save_condition("source", name, SourceCondition())
        await instance.store.save_condition("sink", "splunk", SinkCondition())
        instance.throughput.clear()
        shown = await instance.status()
    assert "3 sources read up to" in Outline(page(shown)).text
    first, *others = shown.sources
    shown = replace(shown, sources=(replace(first, lag_seconds=None), *others))
    assert "3 sources (1 not read yet), the others read up to" in Outline(page(shown)).text
    outline = Outline(page(shown))
    assert "No action needed." in outline.text
    assert "acme-voice has not finished a poll since the start." in outline.text
    assert "Throughput is shown while the service runs." in outline.text
    none = replace(shown, sources=(), sinks=(), findings=())
    assert "There are none." in Outline(page(none)).text


async def test_the_report_has_of_credentials_only_where_they_come_from(tmp_path: Path) -> None:
    async with stage(tmp_path) as instance:
        shown = await instance.status()
    peers: tuple[AnyPeer, ...] = (*shown.sources, *shown.sinks)
    assert [row.credentials for row in peers] == [
        (Credential(key, (f"${{env:{name}}}",)),)
        for key, name in zip(
            ("api_key", "api_key", "api_key", "token", "api_key", "api_key"), ENVIRON, strict=True
        )
    ]
    assert SECRET not in repr(shown)


async def test_the_report_has_the_ledger_of_a_week_and_the_gaps_of_a_month(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as instance:
        now, day = instance.now, timedelta(days=1)
        await instance.read("acme-voice", now - 9 * day, now - 7.5 * day, 5)
        await instance.gap("acme-voice", now - 7.5 * day, now - 7.4 * day)
        await instance.read("acme-voice", now - 7.4 * day, now - 6.9 * day, 7)

        def spans(shown: Report) -> list[tuple[str, int]]:
            return [(span.state, span.events) for span in shown.sources[0].coverage]

        assert [state for state, _ in spans(await instance.status())] == ["gap", "covered"]
        instance.now += 22 * day
        assert spans(await instance.status()) == [("gap", 0)]
        instance.now += 1 * day
        assert spans(await instance.status()) == []


async def test_throughput_names_the_time_that_it_covers(tmp_path: Path) -> None:
    async with staged("healthy", tmp_path) as instance:
        shown = await instance.status()
        assert len(shown.sinks[0].delivered_per_minute or ()) == 60
        assert "82 events in the last hour, 12 in the busiest minute" in Outline(page(shown)).text
        instance.throughput["splunk"].start = instance.now - timedelta(minutes=4)
        text = Outline(page(await instance.status())).text
        assert " in the last 5 min, " in text


async def test_late_events_are_shown_where_they_were_found(tmp_path: Path) -> None:
    async with staged("gap", tmp_path) as instance:
        shown = await instance.status()
        late = shown.sources[0].late
        assert sorted(find.events for find in late) == [1, 2, 4]
        assert {find.via for find in late} == {"resweep 24h"}
        assert shown.sources[1].late == ()
        instance.now += timedelta(days=5)
        late = (await instance.status()).sources[0].late
        assert sorted(find.events for find in late) == [1, 4]


async def test_the_newest_head_is_shown_with_the_sinks_that_have_it(tmp_path: Path) -> None:
    head = Head("7346c92e" * 4, 40_007, bytes.fromhex("1c941d00" * 8))
    async with stage(tmp_path) as instance:
        shown = await instance.status()
        assert "none yet" in evidence_of(shown)
        sealed = (instance.now - timedelta(minutes=25)).isoformat()
    evidence = EvidenceStatus(
        entries=40_007, head=head.word, sealed_at=sealed, taken_by=("elastic", "splunk")
    )
    text = evidence_of(replace(shown, evidence=evidence))
    for words in ("25 min ago", "40,007 entries", "1c941d001c941d00…", "7346c92e7346c92e…"):
        assert words in text
    assert text.count("has it") == 2
    assert text.count("datadogdoes not have it yet") == 1
    forged = replace(evidence, head=EVIL)
    assert "is no head" in evidence_of(replace(shown, evidence=forged))


def evidence_of(report: Report) -> str:
    """Return the text of the section about the evidence."""
    section = page(report).partition('<h2 id="evidence">')[2].partition("</section>")[0]
    return Outline(f'<h2 id="evidence">{section}').text
