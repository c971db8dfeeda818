"""Is a document valid AsyncAPI? Asks AsyncAPI's JSON Schema, and its parser where Node and npm are.

    python tests/programs/asyncapi/validate.py DOCUMENT FOLDER

The parser is installed into FOLDER. Says of both whether they ran; exit code 1 if one found a problem.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

HERE = Path(__file__).parent
SCHEMA = HERE / "asyncapi-3.0.0.schema.json"
PACKAGED_SCHEMA = Path("node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json")
OLDEST_NODE = 18
INSTALL = (
    "ci",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
    "--fetch-retries=1",
    "--fetch-timeout=20000",
)
INSTALL_SECONDS = 300
LOCK = "package-lock.json"


def main(document: Path, tool: Path) -> int:
    """Both judges, in order; the exit code."""
    by_schema = judge_by_schema(document)
    problem = install(tool)
    if problem:
        click.echo(f"AsyncAPI's official parser: NOT RUN: {problem}")
        return by_schema
    return by_schema or judge_by_parser(tool, document)


def judge_by_schema(document: Path) -> int:
    """Validates against AsyncAPI's published JSON Schema."""
    click.echo("AsyncAPI's JSON Schema 3.0.0: ", nl=False)
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(SCHEMA), str(document)]
    return subprocess.run(command, check=False).returncode


def judge_by_parser(tool: Path, document: Path) -> int:
    """Parses by the official parser, with its rules."""
    if (tool / PACKAGED_SCHEMA).read_bytes() != SCHEMA.read_bytes():
        click.echo(f"{SCHEMA} is not that of the package @asyncapi/specs: copy it anew")
        return 1
    click.echo("AsyncAPI's official parser: ", nl=False)
    return subprocess.run(["node", "parse.mjs", str(document.resolve())], cwd=tool, check=False).returncode


def install(tool: Path) -> str | None:
    """Installs the parser into the folder, unless it is there; why it cannot, if so."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "no Node with npm here"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = re.match(r"v(\d+)\.", version)
    if major is None or int(major[1]) < OLDEST_NODE:
        return f"Node {OLDEST_NODE} or newer is needed, here is {version or 'one that does not start'}"
    tool.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "parse.mjs", tool)
    installed = tool / "node_modules" / LOCK
    if installed.exists() and installed.read_bytes() == (HERE / LOCK).read_bytes():
        return None
    return _npm(npm, tool)


def _npm(npm: str, tool: Path) -> str | None:
    for name in ("package.json", LOCK):
        shutil.copy(HERE / name, tool)
    try:
        done = subprocess.run(
            [npm, *INSTALL], cwd=tool, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"npm did not install it within {INSTALL_SECONDS} seconds"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line]
        return f"npm could not install it: {said[0] if said else f'exit code {done.returncode}'}"
    shutil.copy(HERE / LOCK, tool / "node_modules")
    return None


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
