"""The projects that are run: how each is installed from its own lock, and the command that runs it."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from learner_worker.brokers import BrokerKind, why_not
from tests.support.forked import clean_environment

INSTALL_SECONDS = 900.0
TOLD_LINES = 15


class ProjectError(Exception):
    """A command of a project failed; the message has its last words."""


def missing_tools(tools: Sequence[str]) -> str:
    """Which of the tools are not on this machine, as half a sentence; empty when all are."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"not on this machine: {', '.join(absent)}" if absent else ""


def no_kafka() -> str:
    """Why Apache Kafka cannot be started here; empty when it can."""
    return why_not(BrokerKind.KAFKA)


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a lock of its own."""

    folder: Path

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs it needs, besides Python."""
        return ()

    async def install(self) -> None:
        """Installs what the lock names, into folders that git ignores.

        Raises:
            ProjectError: a command failed.
        """

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command that runs one of its programs."""
        raise NotImplementedError


class MavenProject(Project):
    """pom.xml: every direct dependency and plugin at a fixed version."""

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs it needs, besides Python."""
        return ("java", "mvn")

    async def install(self) -> None:
        """Fetches and compiles."""
        await run(["mvn", "-B", "-q", "-ntp", "compile"], self.folder, seconds=INSTALL_SECONDS)

    def command(self, program: str, *arguments: str) -> list[str]:
        """Runs a main class, on the class path that the build wrote down."""
        jars = (self.folder / "target" / "classpath").read_text(encoding="utf-8").strip()
        return ["java", "-cp", f"target/classes{os.pathsep}{jars}", program, *arguments]


class NpmProject(Project):
    """package-lock.json."""

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs it needs, besides Python."""
        return ("node", "npm")

    async def install(self) -> None:
        """Installs the lock unless that was done."""
        await _once(
            self.folder / "package-lock.json",
            self.folder / "node_modules",
            [["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]],
        )

    def command(self, program: str, *arguments: str) -> list[str]:
        """Runs a script by Node."""
        return ["node", program, *arguments]


class PythonProject(Project):
    """requirements.lock with hashes, in a venv of its own."""

    async def install(self) -> None:
        """Makes the venv unless that was done."""
        python = str(self._python)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        await _once(
            self.folder / "requirements.lock",
            self.folder / ".venv",
            [
                [sys.executable, "-m", "venv", "--clear", str(self.folder / ".venv")],
                [*pip, "--require-hashes", "-r", "requirements.lock"],
            ],
        )

    def command(self, program: str, *arguments: str) -> list[str]:
        """Runs a script by the venv's Python."""
        return [str(self._python), program, *arguments]

    @property
    def _python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"


async def _once(lock: Path, built: Path, commands: Sequence[list[str]]) -> None:
    """Runs the commands, unless they were run for this very lock."""
    digest, mark = _digest(lock), built / ".installed"
    if _is_marked(mark, digest):
        return
    for command in commands:
        await run(command, lock.parent, seconds=INSTALL_SECONDS)
    mark.write_text(digest, encoding="ascii")


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _is_marked(mark: Path, digest: str) -> bool:
    return mark.exists() and mark.read_text(encoding="ascii") == digest


async def run(
    command: Sequence[str], folder: Path, *, seconds: float, environment: Mapping[str, str] | None = None
) -> str:
    """Runs a command to its end; what it wrote to its standard output.

    Raises:
        ProjectError: it took too long, or its exit code is not 0.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={**clean_environment(), **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError as late:
            reason = f"{command[0]} did not end within {seconds:g} s"
            raise ProjectError(f"{reason}; its last words:\n{_last_words(output, errors)}") from late
        finally:
            _end(process)
        if code != 0:
            raise ProjectError(f"{command[0]} ended with {code}:\n{_last_words(output, errors)}")
        return _text(output)


def _last_words(*files: IO[bytes]) -> str:
    return "\n".join(line for file in files for line in _text(file).splitlines()[-TOLD_LINES:])


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
