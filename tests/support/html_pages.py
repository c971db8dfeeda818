"""Reads a page as a browser would, to see that no stranger's text became a part of it."""

import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final

_TAGS: Final = frozenset(
    re.findall(
        "[a-z0-9]+",
        """
        html head meta title link script body a header nav strong p main h1 h2 form label input button
        textarea div section table caption thead tbody tr th td span bdi small dl dt dd svg rect path time
        ul li code br
        """,
    )
)
"""The elements that the pages consist of."""
_ADDRESSES: Final = frozenset({"href", "src", "action"})
_VOID: Final = frozenset({"meta", "link", "input", "br", "rect", "path"})


@dataclass
class Page(HTMLParser):
    """What stands on a page.

    Attributes:
        elements: how often each stands there.
        isolated: the texts of all `bdi` elements: ids and descriptions.
        wrong: what is not to be there.
    """

    text: str
    elements: Counter[str] = field(default_factory=Counter)
    isolated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()
        if self._open:
            self.wrong.append(f"not closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        if tag not in _TAGS:
            self.wrong.append(f"an element {tag}")
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.wrong.append(f"an attribute {name} of {tag}")
            if name in _ADDRESSES and not (value or "").startswith(("/", "#")):
                self.wrong.append(f"an address of another place: {value}")
        if tag == "script" and attrs != [("src", "/static/live.js"), ("defer", None)]:
            self.wrong.append(f"a script: {attrs}")
        if tag == "bdi":
            self.isolated.append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"a stray end of {tag}")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "bdi":
            self.isolated[-1] += data
