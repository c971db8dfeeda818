"""`schemas export` and `schemas check`: the contract's JSON Schemas as files."""

from pathlib import Path

import click

from learner_worker.contract.schemas import schema_text
from learner_worker.contract.schemas import schemas as schemas_by_name
from learner_worker.errors import ConfigurationError, LearnerError

_SUFFIX = ".schema.json"


@click.group()
def schemas() -> None:
    """Write or check the JSON Schemas of every message."""


_folder = click.argument("folder", type=click.Path(path_type=Path), default=Path("schemas"))


@schemas.command("export")
@_folder
def export_schemas(folder: Path) -> None:
    """Write the schema of every message into FOLDER."""
    for path in export(folder):
        click.echo(path)


@schemas.command("check")
@_folder
def check_schemas(folder: Path) -> None:
    """Check that FOLDER holds the schemas as this version knows them; exit code 1 if not."""
    problems = check(folder)
    if problems:
        raise LearnerError("; ".join(problems) + ": run `learner-worker schemas export`")
    click.echo(f"{folder}: current")


def export(folder: Path) -> list[Path]:
    """Writes the schema of every message into the folder; returns the files.

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    files = {folder / name: text for name, text in _texts().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_bytes(text)
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename} ({error.strerror})") from error
    return list(files)


def check(folder: Path) -> list[str]:
    """What is wrong with the folder's schemas, a sentence each; nothing when they are current.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    expected = _texts()
    try:
        actual = {path.name: path.read_bytes() for path in folder.glob(f"*{_SUFFIX}")}
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename} ({error.strerror})") from error
    missing = [f"{folder / name} is missing" for name in expected if name not in actual]
    stale = [
        f"{folder / name} is not what the code says"
        for name in expected
        if name in actual and actual[name] != expected[name]
    ]
    unknown = [f"{folder / name} belongs to no message" for name in sorted(actual) if name not in expected]
    return missing + stale + unknown


def _texts() -> dict[str, bytes]:
    return {f"{name}{_SUFFIX}": schema_text(schema).encode() for name, schema in schemas_by_name().items()}
