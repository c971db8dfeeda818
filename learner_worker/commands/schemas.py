"""`schemas export`, `check` and `release`: the contract as files, and what a change would break."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from learner_worker import __version__
from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.errors import ConfigurationError, LearnerError
from learner_worker.interface.asyncapi import asyncapi
from learner_worker.interface.changes import Version, breaking_changes
from learner_worker.interface.page import page as interface_page
from learner_worker.interface.schemas import schema_text
from learner_worker.interface.schemas import schemas as schemas_by_name

_SUFFIX = ".schema.json"
_INTERFACE = "asyncapi.json"
_RELEASED = "released"
_PARTS = ("info", "channels", "operations", "components")
"""The files of a released interface that are compared."""


@click.group()
def schemas() -> None:
    """Write, check or release the interface: AsyncAPI, and every message's JSON Schema."""


_folder = click.argument("folder", type=click.Path(path_type=Path), default=Path("schemas"))
_page = click.option(
    "--page", type=click.Path(path_type=Path), help="Also write the interface as Markdown to FILE."
)


@schemas.command("export")
@_folder
@_page
def export_schemas(folder: Path, page: Path | None) -> None:
    """Write the AsyncAPI document and the schema of every message into FOLDER."""
    work_on_without_stdout()
    for path in export(folder, page):
        click.echo(path)


@schemas.command("check")
@_folder
@_page
def check_schemas(folder: Path, page: Path | None) -> None:
    """Check that FOLDER is current and that nothing breaks what was released; exit code 1 if not."""
    problems = check(folder, page)
    if problems:
        again = f"learner-worker schemas export {folder}" + (f" --page {page}" if page else "")
        raise LearnerError(f"{'; '.join(problems)}: run `{again}`")
    click.echo(f"{folder}: current")
    click.echo(compatibility(folder, asyncapi(__version__)))


@schemas.command("release")
@_folder
def release_schemas(folder: Path) -> None:
    """Keep this version's interface in FOLDER/released: later versions are compared with it."""
    work_on_without_stdout()
    click.echo(release(folder, asyncapi(__version__)))


def export(folder: Path, page: Path | None = None) -> list[Path]:
    """Writes the interface into the folder, and its page if asked to; returns the files.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    files = _files(folder, page)
    for path, content in files.items():
        _write(path, content)
    return list(files)


def check(folder: Path, page: Path | None = None) -> list[str]:
    """What is out of date in the folder or the page, as one sentence each; empty if nothing is.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    expected = _files(folder, page)
    actual = {path: _read(path) for path in expected if path.exists()}
    missing = [f"{path} is missing" for path in expected if path not in actual]
    stale = [
        f"{path} is not what the code says" for path, content in actual.items() if content != expected[path]
    ]
    unknown = [
        f"{path} belongs to no message" for path in sorted(folder.glob(f"*{_SUFFIX}")) if path not in expected
    ]
    return missing + stale + unknown


def compatibility(folder: Path, current: Mapping[str, Any]) -> str:
    """Compares the interface with the newest released one; returns the result as a sentence.

    Raises:
        LearnerError: it breaks it and its version does not say so; or the release is newer.
        ConfigurationError: a released interface cannot be read.
    """
    versions = _released_versions(folder)
    if not versions:
        return f"{folder / _RELEASED}: no released interface, so nothing to be compatible with"
    newest = max(versions)
    released = _released_interface(versions[newest])
    version = Version.parse(current["info"]["version"])
    if version < newest:
        raise LearnerError(f"this is version {version}, but {versions[newest]} is newer: raise the version")
    broken = breaking_changes(released, current)
    if not broken:
        return f"compatible with {newest}, the newest release"
    if not version.may_break(newest):
        otherwise = f"or raise the version to {newest.next_breaking()} and release the schemas again"
        sentences = [f"{sentence}, {otherwise}" for sentence in broken]
        raise LearnerError("\n".join([f"{version} breaks what {newest} promised:", *sentences]))
    return "\n".join([f"{version} may break what {newest} promised, and does:", *broken])


def release(folder: Path, current: Mapping[str, Any]) -> Path:
    """Writes the interface as that of its version; returns the file.

    Raises:
        LearnerError: it breaks the last release, or this version was released and said something else.
        ConfigurationError: a file cannot be read or written.
    """
    compatibility(folder, current)
    path = folder / _RELEASED / str(Version.parse(current["info"]["version"])) / _INTERFACE
    content = schema_text(dict(current)).encode()
    if path.exists() and _read(path) != content:
        raise LearnerError(
            f"{path} says something else: a released interface never changes; raise the version"
        )
    _write(path, content)
    return path


def _released_versions(folder: Path) -> dict[Version, Path]:
    """The released interfaces' files."""
    files = (folder / _RELEASED).glob(f"*/{_INTERFACE}")
    return {Version.parse(path.parent.name): path for path in files}


def _released_interface(path: Path) -> dict[str, Any]:
    try:
        released = json.loads(_read(path))
        info, *_ = (released[part] for part in _PARTS)
        said = info["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no AsyncAPI document ({error})") from error
    if Version.parse(said) != Version.parse(path.parent.name):
        raise ConfigurationError(f"{path} is the interface of {said}: it never changes once released")
    return dict(released)


def _files(folder: Path, page: Path | None) -> dict[Path, bytes]:
    """The contents of the interface's files in this version."""
    interface = asyncapi(__version__)
    texts = {f"{name}{_SUFFIX}": schema_text(schema) for name, schema in schemas_by_name().items()}
    files = {
        folder / name: text.encode() for name, text in {**texts, _INTERFACE: schema_text(interface)}.items()
    }
    return files if page is None else {**files, page: interface_page(interface).encode()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename} ({error.strerror})") from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename} ({error.strerror})") from error
