"""The fenced blocks of README and docs: found, checked without running, or run as a reader would."""

import ast
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import click

from learner_worker.brokers.probing import free_ports
from learner_worker.cli import cli

ROOT = Path(__file__).parents[2]
SHELLS = frozenset({"console", "sh", "bash", "shell"})
PYTHONS = frozenset({"python", "py"})
COMMAND_SECONDS = 120.0
OUTPUT_SECONDS = 30.0
"""How long a command may be repeated until it prints what the page shows: events are on their way."""
_STOP_SECONDS = 60.0
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export \w+=.*$", re.MULTILINE)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_OFFSET = re.compile(r"\boffset \d+")
_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
_PROGRAM = re.compile(
    r"^\s*(?:\$ )?(?:learner-worker|make|pip|docker|kubectl|python3?|export|git) ", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `output` is what the page shows below it, in a block of language `text`."""

    page: str
    language: str
    text: str
    output: str | None

    @property
    def name(self) -> str:
        """The first line that says something."""
        lines = (line.strip().removeprefix("$ ") for line in self.text.splitlines())
        return next(line for line in lines if line and not line.startswith(("#", "import ", "from ")))

    @property
    def id(self) -> str:
        """How a test's report names it."""
        return f"{self.page} {self.name.partition('  ')[0]}"

    @property
    def commands(self) -> str:
        """What is typed: everything, or what stands behind the prompts if there are any."""
        typed = re.findall(r"^\$ (.*)$", self.text, re.MULTILINE)
        return "\n".join(typed) + "\n" if typed else self.text


def pages() -> list[str]:
    """The pages whose blocks are checked."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found]


def blocks(page: str) -> list[Block]:
    """The shell and Python blocks of a page, in order."""
    found = [
        (language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
        for indent, language, text in _FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    ]
    following = [*found, ("", "")][1:]
    return [
        Block(page, language, text, shown if after == "text" else None)
        for (language, text), (after, shown) in zip(found, following, strict=True)
        if language in SHELLS | PYTHONS
    ]


def untagged_programs(page: str) -> list[str]:
    """Blocks without a language that look like commands: nobody would check them."""
    found = _FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [text for _, language, text in found if not language and _PROGRAM.search(text)]


def check(block: Block) -> None:
    """What can be said of a block without running it.

    Python compiles. Shell parses; each `learner-worker` in it names a command, flags and values that the
    program takes, and each `make` a target.
    """
    if block.language in PYTHONS:
        compile(block.text, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return
    subprocess.run(["bash", "-n"], input=block.commands, text=True, check=True)
    for words in _calls(block.commands):
        if words[0] == "learner-worker":
            _parse(words[1:])
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert set(targets) <= set(_TARGET.findall((ROOT / "Makefile").read_text())), words


def _calls(commands: str) -> Iterator[list[str]]:
    """Each simple command's words."""
    for line in commands.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters = "#"
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def _parse(arguments: Sequence[str]) -> None:
    with mock.patch.object(click.Command, "invoke", return_value=None):
        cli.main(list(arguments), prog_name="learner-worker", standalone_mode=False)


@dataclass
class Reader:
    """Somebody who types what a page says, in an empty folder; ports of the page are replaced by free ones.

    Attributes:
        ports: the free port for each one that the pages name.
    """

    folder: Path
    ports: dict[str, str] = field(default_factory=dict)
    _exports: str = ""
    _service: subprocess.Popen[bytes] | None = None

    def run(self, block: Block) -> None:
        """Runs a block to its end; it must print what the page shows, sooner or later."""
        text = self._here(block.commands)
        if block.language in PYTHONS:
            (self.folder / "block.py").write_text(text, encoding="utf-8")
            text = "python block.py"
        deadline = time.monotonic() + OUTPUT_SECONDS
        while True:
            printed = self._run(text)
            if block.output is None or _same(printed, self._here(block.output)):
                break
            assert time.monotonic() < deadline, f"{block.page}: {block.name}\nprinted:\n{printed}"
            time.sleep(0.5)
        self._exports += "".join(f"{line}\n" for line in _EXPORT.findall(text))

    def save(self, block: Block, name: str) -> None:
        """Writes a block into a file, as the page asks for."""
        (self.folder / name).write_text(self._here(block.text), encoding="utf-8")

    def serve(self, block: Block) -> None:
        """Starts what runs until Ctrl-C, as in a terminal of its own; what ran there before is stopped."""
        self.interrupt()
        with (self.folder / "service.log").open("ab") as log:
            self._service = subprocess.Popen(
                self._bash(self._here(block.commands)),
                cwd=self.folder,
                env=_environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def interrupt(self) -> None:
        """Ctrl-C for what runs: it ends with exit code 0."""
        if self._service is None:
            return
        service, self._service = self._service, None
        os.killpg(service.pid, signal.SIGINT)
        try:
            code = service.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(service.pid, signal.SIGKILL)
            service.wait()
            raise
        assert code == 0, (self.folder / "service.log").read_text()

    def clean_up(self) -> None:
        """Leaves nothing running, whatever happened before."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_broker)
            stack.callback(self.interrupt)

    def _stop_broker(self) -> None:
        if (self.folder / "kafka").exists():
            self._run("noida-db down --data-dir ./kafka")

    def _here(self, text: str) -> str:
        for written in ("9092", "8080"):
            if written in text and written not in self.ports:
                self.ports[written] = str(free_ports(1)[0])
        for written, free in self.ports.items():
            text = text.replace(written, free)
        return text

    def _run(self, text: str) -> str:
        done = subprocess.run(
            self._bash(text),
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _bash(self, text: str) -> list[str]:
        return ["bash", "-euo", "pipefail", "-c", self._exports + text]


def _same(printed: str, shown: str) -> bool:
    """Line by line, but for moments and offsets; `...` stands for what the page leaves out."""
    lines = [re.escape(line) for line in _plain(shown)]
    pattern = "".join(
        r"(?:.*\n)*" if line == r"\.\.\." else line.replace(r"\.\.\.", ".*") + r"\n" for line in lines
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _plain(printed))) is not None


def _plain(text: str) -> list[str]:
    return [_OFFSET.sub("offset N", _MOMENT.sub("TIME", line)).rstrip() for line in text.strip().splitlines()]


def _environment() -> dict[str, str]:
    """A terminal in which the learner is installed and nothing is set."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("LEARNER_")}
    return {
        **mine,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
    }
