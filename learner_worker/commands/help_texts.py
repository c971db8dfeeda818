"""The help of commands without docstrings: `python -OO` strips them, so they are read from the source."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import click


def restore_help(command: click.Command) -> None:
    """Gives a command, and those in it, the docstrings of their functions as help, where help is missing."""
    for each in _with_subcommands(command):
        if each.help is None and each.callback is not None:
            function = inspect.unwrap(each.callback)
            each.help = _docstrings(function.__code__.co_filename).get(function.__name__)


def _with_subcommands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if type(command) is click.Group:
        for each in command.commands.values():
            yield from _with_subcommands(each)


def _docstrings(path: str) -> Mapping[str, str]:
    """The docstrings of a module's functions; none if its source is not there."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except OSError:
        return {}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name: text for node in functions if (text := ast.get_docstring(node)) is not None}
