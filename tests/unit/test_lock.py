"""The locks are what pyproject.toml asks for: if a test here fails, run `make lock`."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def locked(name: str) -> list[list[str]]:
    """The lines of a lock, each split into its pin and its hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    return [line.split(" --hash=") for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines()]


def pins(name: str) -> dict[str, Requirement]:
    """The pins of a lock, by package."""
    return {canonicalize_name(pin.name): pin for pin in (Requirement(line[0]) for line in locked(name))}


LOCKED = [*locked("dev"), *locked("audit")]
PINS = {"dev": pins("dev"), "audit": pins("audit")}
ASKED = [
    *PYPROJECT["build-system"]["requires"],
    *PYPROJECT["project"]["dependencies"],
    *PYPROJECT["project"]["optional-dependencies"]["embedded"],
    *PYPROJECT["project"]["optional-dependencies"]["identity"],
    *PYPROJECT["project"]["optional-dependencies"]["msk"],
    *PYPROJECT["project"]["optional-dependencies"]["otel"],
    *PYPROJECT["project"]["optional-dependencies"]["snapshots"],
    *PYPROJECT["dependency-groups"]["dev"],
]
AUDIT = PYPROJECT["dependency-groups"]["audit"]


@pytest.mark.parametrize(
    ("lock", "asked"), [*(("dev", asked) for asked in ASKED), *(("audit", asked) for asked in AUDIT)]
)
def test_direct_requirement_is_locked_at_a_version_it_allows(lock: str, asked: str) -> None:
    """Everything that pyproject.toml names, to build, to run, for the demo and to develop, is in its lock."""
    requirement = Requirement(asked)

    found = PINS[lock][canonicalize_name(requirement.name)]
    [pin] = found.specifier

    assert pin.operator == "=="
    assert requirement.specifier.contains(pin.version, prereleases=True)
    assert requirement.extras <= found.extras  # else pip takes them from a newer version, without a hash


def test_every_locked_package_is_hashed_and_comes_from_no_named_place() -> None:
    """Each line is `name==version`, perhaps extras and a marker, and hashes: no index, URL or option."""
    for pin, *hashes in LOCKED:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z0-9, -]+\])?==[a-z0-9.+!]+( ; .+)?", pin)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)
