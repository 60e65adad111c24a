"""
A headless browser for the tests of the status page: Chromium, by its DevTools protocol.

It is controlled through two pipes (``--remote-debugging-pipe``: JSON with a NUL after each message,
commands on file descriptor 3 and answers on 4), so that no port is open and no library is needed.
The protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
"""The browser, as Debian and others call it."""

NO_CHROMIUM = "there is no Chromium here (Debian: apt install chromium)"

PATIENCE = 30.0
_LONGEST = 64 << 20
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # it runs as root in a container, and only opens pages of ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


class Browser:
    """A running Chromium. Use :func:`running`."""

    def __init__(self, process: int, reader: asyncio.StreamReader, writer: Any) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._hearing = asyncio.create_task(self._hear())

    async def call(
        self, method: str, session: str | None = None, *, within: float = PATIENCE, **params: Any
    ) -> dict[str, Any]:
        """Return what the browser answers to *method*, in at most *within* seconds."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._writer.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(within):
            return await answer

    async def _hear(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" not in message:
                    tab = self._tabs.get(message.get("sessionId", ""))
                    if tab is not None:
                        tab.hear(message["method"], message["params"])
                    continue
                answer = self._waiting.pop(message["id"])
                if answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(RuntimeError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])
        for answer in self._waiting.values():
            answer.cancel()

    @contextlib.asynccontextmanager
    async def tab(
        self,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
        headers: dict[str, str] | None = None,
        before: str = "",
    ) -> AsyncIterator["Tab"]:
        """
        Open a tab that shares nothing with any other, for the length of a ``with`` block.

        *scripts* is whether pages may run theirs, *headers* go with every request, and the script
        *before* runs in every page before its own.
        """
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        tab = Tab(self, attached["sessionId"])
        self._tabs[attached["sessionId"]] = tab
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await tab.call("Emulation.setEmulatedMedia", features=[scheme])
            await tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
            await tab.resize(width, height)
            if before:
                await tab.call("Page.addScriptToEvaluateOnNewDocument", source=before)
            if headers:
                await tab.call("Network.setExtraHTTPHeaders", headers=headers)
            yield tab
        finally:
            del self._tabs[attached["sessionId"]]
            await self.call("Target.disposeBrowserContext", browserContextId=context)

    async def end(self) -> None:
        """End the process, and all that it has started."""
        try:
            await self.call("Browser.close")
            async with asyncio.timeout(PATIENCE):
                await self._hearing
                await asyncio.to_thread(os.waitpid, self._process, 0)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process, signal.SIGKILL)
            raise
        finally:
            self._writer.close()


class Tab:
    """One page in the browser: what it loaded, what it complained of, and what it shows."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        """What stands in the console: errors, warnings, violations of the security policy."""
        self.requests: list[str] = []
        """Every address that was asked."""
        self._loaded = asyncio.Event()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return what the browser answers to *method*, for this tab."""
        return await self._browser.call(method, self._session, **params)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["args"]))

    async def open(self, url: str) -> None:
        """Go to *url* and wait until it is there."""
        self._loaded.clear()
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer["errorText"]
        async with asyncio.timeout(PATIENCE):
            await self._loaded.wait()

    async def resize(self, width: int, height: int) -> None:
        """Show it on a screen of that size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def ask(self, script: str, *, within: float = PATIENCE) -> Any:
        """Return the value of *script*, as JSON has it; also where the page may run none."""
        answer = await self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            within=within,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script: str, *, within: float = PATIENCE) -> None:
        """Wait until *script* is true."""
        deadline = time.monotonic() + within
        while not await self.ask(script):
            assert time.monotonic() < deadline, f"still not, after {within} s: {script}"
            await asyncio.sleep(0.05)

    async def press(self, key: str, *, code: int, text: str = "") -> None:
        """Press *key*, whose number is *code*, and let it go."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def shoot(self, path: Path, *, height: int | None = None) -> None:
        """
        Write a picture of the page to *path*: all of it, or its first *height* pixels.

        It is what the name of *path* ends with, .png or .webp.
        """
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"]}
        shot = await self.call(
            "Page.captureScreenshot",
            format=path.suffix[1:],
            clip={**clip, "scale": 1},
            captureBeyondViewport=True,
        )
        path.write_bytes(base64.b64decode(shot["data"]))  # noqa: ASYNC240  # once, of some 100 KB


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Browser]:
    """Start Chromium with a profile of its own, for the length of a ``with`` block."""
    assert CHROMIUM is not None, NO_CHROMIUM
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        # Well above 3 and 4, so that neither is overwritten before it is copied.
        theirs_in, ours_out = _pipe()
        ours_in, theirs_out = _pipe()
        process = os.posix_spawn(  # noqa: ASYNC221  # it only starts it
            CHROMIUM,
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            {**os.environ, "HOME": profile},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LONGEST)
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb", 0)
        )
        writer, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(ours_out, "wb", 0))
        browser = Browser(process, reader, writer)
        try:
            yield browser
        finally:
            await browser.end()


def _pipe() -> tuple[int, int]:
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]
