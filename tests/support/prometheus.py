"""Prometheus' own programs, by which tests judge: those on the PATH, or fetched by .ci/get-prometheus."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal

import pytest

ROOT: Final = Path(__file__).parents[2]
_FETCHED: Final = ROOT / ".venv/prometheus/usr/bin"
ABSENT: Final = (
    "promtool and prometheus: the tests of metrics, rules and dashboard are not judged by them here; "
    "`.ci/get-prometheus`, which `make check` runs, fetches them on Debian and Ubuntu"
)
"""What a run of the tests says if they are not here."""


def found(name: Literal["promtool", "prometheus"]) -> str | None:
    """The path of one of the programs; None if it is not here."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(_FETCHED)]))


def required(name: Literal["promtool", "prometheus"]) -> str:
    """The path of one of the programs; skips the test if it is not here."""
    path = found(name)
    if path is None:
        pytest.skip(f"not here: {ABSENT}")
    return path


def promtool(*arguments: str, stdin: str = "") -> str:
    """Runs promtool and returns what it prints; it must find nothing to complain about."""
    done = subprocess.run(
        [required("promtool"), *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
