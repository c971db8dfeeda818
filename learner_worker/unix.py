"""Modules of Unix alone: None elsewhere, so that clients and commands that need none of them work there."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final


def _module(name: str) -> Any:
    return None if find_spec(name) is None else import_module(name)


FCNTL: Final = _module("fcntl")
RESOURCE: Final = _module("resource")
