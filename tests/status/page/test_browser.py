"""The status page in a real browser: display, accessibility, keyboard, requests and scripts."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from tests.support.browser import CHROMIUM, NO_CHROMIUM, Browser, Tab, running
from tests.support.cases import case
from tests.support.daemon import Daemon, configure, eventually, sinks, sources
from tests.support.stages import STAGES, Stage, sink_down, staged

from auditrelay.sandbox import Sandbox
from auditrelay.settings.secrets import Secret
from auditrelay.status.port import StatusPort

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

HEADLINES = {
    "healthy": "All is well.",
    "sink-down": "splunk cannot be reached.",
    "source-held": "acme-calls does not accept its key (401).",
    "gap": "acme-voice was not read for 9 h",
    "long-backlog": "2 problems need attention.",
}
EVIL = (
    """
    const each = document.createElement("script");
    each.textContent = "window.ran = 1";
    document.body.append(each);
    """,
    """
    document.body.insertAdjacentHTML("beforeend", '<a onclick="window.ran = 1">x</a>');
    document.body.lastElementChild.click();
    """,
    """document.body.insertAdjacentHTML("beforeend", '<p style="color: red">x</p>')""",
    """new Image().src = "https://elsewhere.example/x.png"; 0""",
    """fetch("https://elsewhere.example/").catch(() => 0)""",
)
"""Attempts of an attacker who has injected something into the page."""

HURRY = "const real = setTimeout; window.setTimeout = (work, wait) => real(work, wait / 40);"
"""Makes the page refresh four times a second."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running() as started:
        yield started


@contextlib.asynccontextmanager
async def served(instance: Stage, token: Secret | None = None) -> AsyncIterator[str]:
    """Serve *instance* for the length of a ``with`` block; the address."""
    port = StatusPort("127.0.0.1:0", instance, token=token)
    serving = asyncio.create_task(port.serve())
    try:
        yield port.address
    finally:
        port.stop()
        await serving


@contextlib.asynccontextmanager
async def shown(
    browser: Browser, stage: str, folder: Path, **options: Any
) -> AsyncIterator[tuple[Tab, Stage]]:
    """Open the page of the stage called *stage*; the browser must log no error."""
    async with (
        staged(stage, folder) as instance,
        served(instance) as address,
        opened(browser, address, **options) as tab,
    ):
        yield tab, instance


@contextlib.asynccontextmanager
async def opened(browser: Browser, address: str, **options: Any) -> AsyncIterator[Tab]:
    """Open the page at *address*; the browser must log no error."""
    async with browser.tab(**options) as tab:
        await tab.open(address)
        yield tab
        assert tab.complaints == []
        assert {urlsplit(asked).netloc for asked in tab.requests} == {urlsplit(address).netloc}


CONTRASTS = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
      if (colour[3]) throw new Error("half a background");
    }
    throw new Error("no background");
  };
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim();
    const element = texts.currentNode.parentElement;
    if (!text || !element.getClientRects().length || element.localName === "title") continue;
    const style = getComputedStyle(element);
    const colour = parse(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    found.push([text, ratio(colour, behind(element)), large ? 3 : 4.5]);
  }
  for (const element of document.querySelectorAll(".covered, .gap, .filled, .late")) {
    const fill = parse(getComputedStyle(element).fill);
    found.push([element.className.baseVal, ratio(fill, behind(element.closest("figure, p"))), 3]);
  }
  return found;
})()
"""


@pytest.mark.parametrize("stage", STAGES)
async def test_a_stage_is_in_the_headline_and_legible_on_any_screen(
    browser: Browser, stage: str, tmp_path: Path
) -> None:
    async with staged(stage, tmp_path) as instance, served(instance) as address:
        for dark in (False, True):
            with case("dark" if dark else "light"):
                await _is_legible(browser, stage, address, dark=dark)


async def _is_legible(browser: Browser, stage: str, address: str, *, dark: bool) -> None:
    async with opened(browser, address, dark=dark) as tab:
        assert (await tab.ask("document.getElementById('headline').textContent")).startswith(
            HEADLINES[stage]
        )
        contrasts = await tab.ask(CONTRASTS)
        assert len(contrasts) > 50
        assert [each for each in contrasts if each[1] < each[2]] == []
        light = await tab.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(light) < 64) == dark
        for width in (360, 768, 1920):
            await tab.resize(width, 800)
            assert await tab.ask("document.documentElement.scrollWidth") <= width
            wide = (
                "[...document.querySelectorAll('main *')].filter((each) => "
                f"each.getBoundingClientRect().right > {width} + 1).map((each) => each.outerHTML)"
            )
            assert await tab.ask(wide) == []


async def test_it_is_whole_without_scripts(browser: Browser, tmp_path: Path) -> None:
    async with shown(browser, "gap", tmp_path, scripts=False) as (tab, _):
        assert not any(address.endswith(".js") for address in tab.requests)
        assert await tab.ask("document.getElementById('pause').checkVisibility()") is False
        assert await tab.ask("document.getElementById('reload').checkVisibility()") is True
        assert await tab.ask("document.querySelectorAll('.timeline .gap').length") == 1
        assert await tab.ask("document.querySelectorAll('.timeline .late').length") == 3
        command = await tab.ask("document.querySelector('#problems code').textContent")
        assert " backfill acme-voice --from " in command
        assert await tab.ask("document.querySelector('#problems .mark').checkVisibility()") is True
        before = len(tab.requests)
        await tab.ask("document.getElementById('reload').click()")
        await eventually(lambda: len(tab.requests) > before, what="the link loads the page again")


async def test_it_can_be_read_aloud(browser: Browser, tmp_path: Path) -> None:
    async with shown(browser, "gap", tmp_path) as (tab, _):
        nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
        named = [
            (node["role"]["value"], node.get("name", {}).get("value", "").strip())
            for node in nodes
            if not node["ignored"]
        ]
        roles = [role for role, _ in named]
        assert roles.count("main") == 1
        assert roles.count("banner") == 1
        for role, name in named:
            if role in ("link", "button", "heading", "image", "img", "article", "figure"):
                assert name or role == "figure", (role, name)
        levels = await tab.ask(
            "[...document.querySelectorAll('h1, h2, h3')].map((each) => +each.localName[1])"
        )
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        pictures = [name for role, name in named if role in ("image", "img")]
        assert any(
            name.startswith("acme-voice, the last 7 days: ")
            and name.endswith("; 1 gap; 7 events found late.")
            for name in pictures
        ), pictures
        assert any("events in the last hour" in name for name in pictures)
        assert await tab.ask("document.documentElement.lang") == "en"
        ids = await tab.ask("[...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(set(ids)) == len(ids)


TAB, ENTER = ("Tab", 9, ""), ("Enter", 13, "\r")


async def press(tab: Tab, key: tuple[str, int, str]) -> None:
    await tab.press(key[0], code=key[1], text=key[2])


async def test_the_keyboard_reaches_everything_in_the_order_it_is_read(
    browser: Browser, tmp_path: Path
) -> None:
    async with shown(browser, "sink-down", tmp_path) as (tab, _):
        # What a key can reach is marked, so that the order can be compared with the document's.
        count = await tab.ask(
            "[...document.querySelectorAll('a, button, summary, pre')]"
            ".map((each, number) => each.dataset.n = number).length"
        )
        reached = []
        for _ in range(count):
            await press(tab, TAB)
            focused = await tab.ask(
                "(() => { const at = document.activeElement, style = getComputedStyle(at);"
                "return [at.dataset.n, style.outlineStyle, parseFloat(style.outlineWidth),"
                "at.getBoundingClientRect().left >= 0] })()"
            )
            assert focused[1] != "none", focused
            assert focused[2] >= 2, focused
            assert focused[3], "it is on the screen while it has the focus"
            reached.append(int(focused[0]))
        assert reached == list(range(count))
        assert count >= 1 + 2 + 1 + 6 + 3

        await tab.ask("document.querySelector('.flow a[href=\"#sink-splunk\"]').focus()")
        await press(tab, ENTER)
        await tab.until("location.hash === '#sink-splunk'")
        await tab.until("document.activeElement.id === 'sink-splunk'")
        await tab.ask("document.querySelector('summary').focus()")
        await press(tab, ENTER)
        await tab.until("document.querySelector('details').open")
        assert await tab.ask("document.querySelectorAll('details[open] tbody tr').length") >= 7


async def test_it_refreshes_itself_and_keeps_the_place_of_the_reader(
    browser: Browser, tmp_path: Path
) -> None:
    async with shown(browser, "healthy", tmp_path, before=HURRY, height=500) as (tab, instance):
        await tab.ask(
            "document.getElementById('table-acme-calls').open = true;"
            "document.querySelector('.flow a[href=\"#sink-datadog\"]').focus();"
            "window.scrollTo(0, 200); window.stays = 1"
        )
        edge = "document.getElementById('source-acme-voice').getBoundingClientRect().top"
        seen = await tab.ask(edge)
        assert 0 < seen < 250, "it is the first that can be seen"
        assert await tab.ask("document.title") == "All is well. · auditrelay"
        await sink_down(instance)
        await tab.until("document.getElementById('headline').textContent.startsWith('splunk')")
        assert await tab.ask("window.stays") == 1, "it was not reloaded"
        assert await tab.ask("document.title") == "▲ splunk cannot be reached. · auditrelay"
        assert await tab.ask("document.getElementById('news').textContent") == (
            "splunk cannot be reached."
        )
        assert await tab.ask("document.getElementById('table-acme-calls').open") is True
        assert await tab.ask("document.getElementById('table-acme-voice').open") is False
        assert await tab.ask("document.activeElement.getAttribute('href')") == "#sink-datadog"
        assert await tab.ask(edge) == pytest.approx(seen, abs=1), (
            "what is being read stays in place"
        )
        assert await tab.ask("window.scrollY") > 200
        assert (
            await tab.ask("document.querySelector('.flow .action_required strong').textContent")
            == "splunk"
        )


def asked_for_the_page(tab: Tab) -> int:
    return sum(urlsplit(address).path == "/" for address in tab.requests)


async def test_it_does_not_refresh_while_it_is_paused_or_hidden(
    browser: Browser, tmp_path: Path
) -> None:
    before = HURRY + (
        "window.seen = 'visible';"
        "Object.defineProperty(document, 'visibilityState', { get: () => window.seen });"
    )
    async with shown(browser, "healthy", tmp_path, before=before) as (tab, _):

        async def turns(state: str) -> None:
            await tab.ask(
                f"window.seen = '{state}'; document.dispatchEvent(new Event('visibilitychange'))"
            )

        async def rests() -> None:
            await asyncio.sleep(0.3)  # a request in flight may end
            asked = asked_for_the_page(tab)
            await asyncio.sleep(0.8)
            assert asked_for_the_page(tab) == asked

        async def goes_on() -> None:
            asked = asked_for_the_page(tab)
            await eventually(lambda: asked_for_the_page(tab) > asked + 1, what="it asks again")

        await goes_on()
        await turns("hidden")
        await rests()
        await turns("visible")
        await goes_on()
        await tab.ask("document.getElementById('pause').click()")
        assert await tab.ask("document.getElementById('pause').textContent") == "Resume"
        await rests()
        await turns("hidden")
        await turns("visible")
        await rests()
        await tab.ask("document.getElementById('pause').click()")
        await goes_on()


async def test_a_selection_is_not_disturbed_for_a_while(browser: Browser, tmp_path: Path) -> None:
    async with shown(browser, "sink-down", tmp_path, before=HURRY) as (tab, instance):
        await tab.ask(
            "document.querySelector('pre code').id = 'mine';"
            "getSelection().selectAllChildren(document.getElementById('mine'))"
        )
        instance.now += timedelta(seconds=30)
        asked = asked_for_the_page(tab)
        await eventually(lambda: asked_for_the_page(tab) >= asked + 3, what="it asks")
        assert await tab.ask("getSelection().toString()") != ""
        assert await tab.ask("document.getElementById('mine') !== null") is True
        await tab.until("document.getElementById('mine') === null")
        assert asked_for_the_page(tab) >= 1 + 6 + 1
        assert await tab.ask("document.getElementById('at').textContent") == (
            f"{instance.now:%H:%M:%S} UTC"
        )


async def test_it_shows_when_the_service_stops_responding_and_when_it_responds_again(
    browser: Browser, tmp_path: Path
) -> None:
    async with (
        staged("healthy", tmp_path) as instance,
        browser.tab(before=HURRY) as tab,
    ):
        async with served(instance) as address:
            await tab.open(address)
        await tab.until("document.getElementById('news').textContent.startsWith('No answer')")
        said = await tab.ask("document.getElementById('news').textContent")
        assert said.endswith(f"This page is as of {instance.now:%H:%M:%S} UTC.")
        assert await tab.ask("document.body.classList.contains('stale')") is True
        port = StatusPort(urlsplit(address).netloc, instance)
        serving = asyncio.create_task(port.serve())
        await tab.until(
            "document.getElementById('news').textContent === 'The service is responding again.'"
        )
        assert await tab.ask("document.body.classList.contains('stale')") is False
        port.stop()
        await serving


async def test_nothing_but_its_own_files_is_run_or_loaded(browser: Browser, tmp_path: Path) -> None:
    async with (
        staged("healthy", tmp_path) as instance,
        served(instance) as address,
        browser.tab() as tab,
    ):
        await tab.open(address)
        for stopped, attempt in enumerate(EVIL, 1):
            await tab.ask(f"{{ {attempt} }}")
            await eventually(lambda: len(tab.complaints) >= stopped, what=attempt)  # noqa: B023  # awaited at once
        assert all("Content Security Policy" in said for said in tab.complaints), tab.complaints
        assert await tab.ask("window.ran") is None


async def test_the_token_is_sufficient_and_necessary_for_everything(
    browser: Browser, tmp_path: Path
) -> None:
    token = "a-token-of-the-status-port"
    basic = base64.b64encode(f"anybody:{token}".encode()).decode()
    async with (
        staged("healthy", tmp_path) as instance,
        served(instance, Secret(token)) as address,
    ):
        async with browser.tab(headers={"Authorization": f"Basic {basic}"}, before=HURRY) as tab:
            await tab.open(address)
            assert (
                await tab.ask("document.getElementById('headline').textContent") == "All is well."
            )
            assert await tab.ask("getComputedStyle(document.body).maxWidth") != "none"
            await eventually(lambda: asked_for_the_page(tab) > 2, what="it asks again")
            assert tab.complaints == []
        async with browser.tab() as tab:
            with contextlib.suppress(AssertionError):  # Chromium shows its own page for a bare 401
                await tab.open(address)
            assert await tab.ask("document.getElementById('headline')") is None
            statuses = await tab.ask(
                "Promise.all(['/', '/static/page.css', '/api/status'].map((path) => "
                f"fetch('{address}'.slice(0, -1) + path).then((answer) => answer.status, () => 0)))"
            )
            assert not {200, 304} & {*statuses}


async def test_a_running_service_shows_that_a_key_is_refused_since_when_and_what_to_do(
    browser: Browser, tmp_path: Path
) -> None:
    async with Sandbox() as sandbox:
        config = configure(tmp_path, sources(sandbox), sinks(sandbox))
        async with Daemon(config) as daemon, browser.tab(before=HURRY) as tab:
            await tab.open(daemon.address + "/")
            await tab.until("document.getElementById('headline').textContent === 'All is well.'")
            now = datetime.now(UTC)
            sandbox.cekura.fill(50, now - timedelta(seconds=3), now)
            await tab.until(  # and the head of the seal at the start
                "document.querySelector('#sink-splunk figcaption').textContent.startsWith('51 ')"
            )
            sandbox.bland.rotate("another-key-of-the-organisation")
            await tab.until(
                "document.getElementById('headline').textContent"
                " === 'bland does not accept its key (401).'"
            )
            problems = await tab.ask("document.getElementById('problems').textContent")
            assert "since " in problems
            assert "Put a valid key into sources.bland.api_key" in problems
            assert f"auditrelay -c {config} check" in problems
            assert sandbox.cekura.api_key not in await tab.ask("document.documentElement.outerHTML")
            assert tab.complaints == []
            assert await daemon.end() == 0
