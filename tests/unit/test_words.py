"""The words of the code: every numeric constant has its reason, and no retired word is an identifier."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = sorted((ROOT / "learner_worker").rglob("*.py"))
TESTS: Final = sorted(path for path in (ROOT / "tests").rglob("*.py") if ".venv" not in path.parts)

RETIRED: Final[dict[str, str]] = {
    "lane": "request consumer",
    "letters": "dead letters",
    "letterbox": "DeadLetterReader",
    "take_stock": "list_matching",
    "inventory": "DeadLetterIndex",
    "fold": "changelog applier, join",
    "folded": "joined",
    "intake": "event intake, changelog applier",
    "sieve": "retention filter",
    "unsieved": "marker filter",
    "surroundings": "shard context",
    "around": "poll result",
    "marks": "committed and end offsets",
    "cut": "snapshot",
    "shardcut": "ShardSnapshot",
    "pace": "pacing",
    "breathe": "after_chunk",
    "collect": "linger",
    "outbox": "record sink",
    "light_records": "patches",
    "closed_connections": "patches",
    "patching": "patches",
    "told": "notified",
    "waiting": "pending",
    "relics": "superseded facts",
    "spent": "due tombstones",
    "relieve": "tombstone_superseded",
    "bury": "send_dead_letter",
    "twin": "duplicate instance id",
    "twins": "duplicate instance ids",
    "dialect": "header convention",
    "dialects": "headers",
    "ladder": "preference order",
    "rung": "preference",
    "room": "package",
}
"""Words that once named a thing here, each with the field's own. (A `line` of text keeps its name.)"""


def _has_number(node: ast.expr | None) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.BinOp(left=left, right=right):
            return _has_number(left) and _has_number(right)
        case ast.UnaryOp(operand=operand):
            return _has_number(operand)
        case ast.Tuple(elts=elements):
            return bool(elements) and all(map(_has_number, elements))
        case ast.Call(args=arguments):
            return any(map(_has_number, arguments))
        case _:
            return False


def _is_docstring(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _without_reason(source: str) -> Iterator[str]:
    """The module's numeric constants with neither a comment on their lines nor a docstring under them."""
    lines, body = source.splitlines(), ast.parse(source).body
    for number, statement in enumerate(body, start=1):
        following = body[number] if number < len(body) else None
        if isinstance(statement, ast.Assign | ast.AnnAssign) and _has_number(statement.value):
            written = lines[statement.lineno - 1 : statement.end_lineno]
            if not any("#" in line for line in written) and not _is_docstring(following):
                yield written[0]


def _names(tree: ast.AST) -> Iterator[str]:
    """Every name that the code itself gives: to variables, arguments, functions, classes, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case _:
                pass


def _retired_in(path: Path, source: str) -> list[str]:
    names = {path.stem, *_names(ast.parse(source))}
    return sorted(name for name in names if name.strip("_").lower() in RETIRED)


def test_every_numeric_constant_has_its_reason() -> None:
    """On its line or in the docstring under it: why this value."""
    found = [
        f"{path.relative_to(ROOT)}: {constant}"
        for path in PACKAGE
        for constant in _without_reason(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_no_retired_word_is_an_identifier() -> None:
    """Modules, classes, functions, arguments, variables and attributes have the field's words."""
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*PACKAGE, *TESTS]
        for name in _retired_in(path, path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("SECONDS = 5.0\n", ["SECONDS = 5.0"]),
        ("SECONDS: Final = 5.0\nOTHER = 'x'\n", ["SECONDS: Final = 5.0"]),
        ("LOW, HIGH = 0.2, -0.8\n", ["LOW, HIGH = 0.2, -0.8"]),
        ("BYTES = 64 * 1024\n", ["BYTES = 64 * 1024"]),
        ("SECONDS = 5.0  # as long as a failover\n", []),
        ("SECONDS = 5.0\n'''As long as a failover.'''\n", []),
        ("NAME = 'x'\nDEBUG = True\n", []),
    ],
)
def test_a_constant_without_a_reason_is_found(source: str, expected: list[str]) -> None:
    """The check itself: numbers, tuples and products; a comment or a docstring is a reason."""
    assert list(_without_reason(source)) == expected


def test_a_retired_identifier_is_found() -> None:
    """The check itself: any kind of name, with underscores or capitals; texts do not matter."""
    source = "def bury(told: str) -> None:\n    self._waiting = Outbox = 'room'\n"
    assert _retired_in(Path("lane.py"), source) == ["Outbox", "_waiting", "bury", "lane", "told"]
