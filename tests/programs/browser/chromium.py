"""A headless Chromium, driven by the DevTools protocol."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.workers import until

_FLAGS = (
    "--headless",
    "--no-sandbox",  # a container's root may not make one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--window-size=1200,900",
)
_LARGEST_MESSAGE_BYTES = 2**26  # a picture of a long page


@dataclass
class Tab:
    """A tab: what it is told, and what it says.

    Attributes:
        errors: of its console and of its scripts, and dialogs that scripts opened.
        requests: the addresses that it asked for.
    """

    socket: aiohttp.ClientWebSocketResponse
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _answers: dict[int, "asyncio.Future[Any]"] = field(default_factory=dict)

    async def tell(self, method: str, **parameters: Any) -> Any:
        """Sends a command; its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        return await asyncio.wait_for(answer, 60)

    async def listen(self) -> None:
        """Takes answers and events until the tab is gone."""
        async for message in self.socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said.get("result", said.get("error")))
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, said: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.errors.append(str(said["exceptionDetails"]["text"]))
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
            case "Page.javascriptDialogOpening":
                self.errors.append(f"a dialog: {said['message']}")
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, of a promise what it becomes."""
        said = await self.tell(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def open(self, url: str) -> None:
        """Goes to an address, and waits until the page is complete."""
        await self.tell("Page.navigate", url=url)
        await self.shows(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    async def shows(self, condition: str, *, seconds: float = 60.0) -> None:
        """Waits for a condition of the page."""

        async def holds() -> bool:
            return bool(await self.evaluate(condition))

        await until(holds, condition, seconds=seconds)

    async def looks(self, *, dark: bool, width: int | None) -> None:
        """Shows pages as on such a screen from now on; a width of None is the window's own."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.tell("Emulation.setEmulatedMedia", features=[scheme])
        if width is None:
            await self.tell("Emulation.clearDeviceMetricsOverride")
        else:
            screen = {"width": width, "height": 2 * width, "deviceScaleFactor": 1, "mobile": False}
            await self.tell("Emulation.setDeviceMetricsOverride", **screen)

    async def picture(self, path: Path) -> None:
        """Writes a picture of what is seen."""
        said = await self.tell("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(said["data"]))


@asynccontextmanager
async def chromium_tab(program: str, folder: Path) -> AsyncIterator[Tab]:
    """A new tab of a browser of its own."""
    browser = await asyncio.create_subprocess_exec(
        *(program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                targets = await answer.json()
            url = next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page")
            async with session.ws_connect(url, max_msg_size=_LARGEST_MESSAGE_BYTES) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen(), name="listen-to-chromium")
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.tell(f"{domain}.enable")
                yield tab
                listening.cancel()
    finally:
        browser.terminate()
        await browser.wait()


async def _port(path: Path) -> int:
    async def written() -> str | None:
        return _first_line(path)

    return int(await until(written, "Chromium listens"))


def _first_line(path: Path) -> str | None:
    lines = path.read_text().split() if path.exists() else []
    return lines[0] if lines else None
