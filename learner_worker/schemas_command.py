"""`schemas export` and `schemas check`: the contract's JSON Schemas as files."""

from pathlib import Path

from learner_worker.contract.schemas import schema_text, schemas
from learner_worker.errors import ConfigurationError

_SUFFIX = ".schema.json"


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
    return {f"{name}{_SUFFIX}": schema_text(schema).encode() for name, schema in schemas().items()}
