"""The shape of the code: files, classes and constructors have limits, public class names stand once."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "learner_worker"
FILE_LINES: Final = 400
CLASS_LINES: Final = 250
METHODS: Final = 20
ATTRIBUTES: Final = 12
ARGUMENTS: Final = 8

WIDE: Final = {
    "Checkpoint": "a field for every table that a checkpoint writes",
    "DeadLetter": "a field for everything that a dead letter carries",
    "ChannelMessage": "a field for every property of a message in the interface's documents",
    "Platform": "a field for each thing that a worker is given",
    "TopicNames": "a field for every topic",
    "Topics": "a field for every topic, and the prefix",
}
"""Dataclasses that only hold values and have more fields than a constructor may have arguments, and why."""


@dataclass(frozen=True, slots=True)
class Class:
    """A class of the package and its file, as a path in the package."""

    file: str
    node: ast.ClassDef

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def methods(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [each for each in self.node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]

    @property
    def attributes(self) -> set[str]:
        """The names of `self` that its methods assign."""
        return {
            each.attr
            for method in self.methods
            for each in ast.walk(method)
            if isinstance(each, ast.Attribute)
            and isinstance(each.ctx, ast.Store)
            and isinstance(each.value, ast.Name)
            and each.value.id == "self"
        }

    @property
    def arguments(self) -> int:
        """How many the constructor takes; of messages and rows (structs, models, named tuples) none count."""
        for method in self.methods:
            if method.name == "__init__":
                return len(method.args.posonlyargs + method.args.args + method.args.kwonlyargs) - 1
        if not any("dataclass" in ast.unparse(decorator) for decorator in self.node.decorator_list):
            return 0
        return sum(isinstance(each, ast.AnnAssign) for each in self.node.body)


@cache
def files() -> dict[str, str]:
    """The text of every file of the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@cache
def classes() -> list[Class]:
    """Every class of the package."""
    return [
        Class(file, node)
        for file, text in files().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    ]


def over_a_limit() -> Iterator[tuple[str, str, str]]:
    for file, text in files().items():
        if len(text.splitlines()) > FILE_LINES:
            yield file, "", "lines"
    for each in classes():
        limits = {
            "lines": each.lines > CLASS_LINES,
            "methods": len(each.methods) > METHODS,
            "attributes": len(each.attributes) > ATTRIBUTES,
            "arguments": each.arguments > ARGUMENTS and each.name not in WIDE,
        }
        yield from ((each.file, each.name, what) for what, is_over in limits.items() if is_over)


def test_no_file_class_or_constructor_is_over_its_limit() -> None:
    """Each names its file, its class, and what there is too much of."""
    assert sorted(over_a_limit()) == []


def test_no_public_class_name_stands_twice() -> None:
    """A class name says which class is meant, in the whole package."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for each in classes():
        if not each.name.startswith("_"):
            places[each.name].append(each.file)

    assert {name for name, found in places.items() if len(found) > 1} == set()


def test_what_may_be_wide_is_wide() -> None:
    """An exception that no class needs any more is not kept."""
    assert {each.name for each in classes() if each.arguments > ARGUMENTS} >= WIDE.keys()


def test_the_limits_see_what_is_over_them() -> None:
    """A class with too much of each is measured as such."""
    body = "\n".join(f"    def method_{number}(self): self.value_{number} = 1" for number in range(3))
    text = f"class Large:\n    def __init__(self, one, *, two): self.one = one\n{body}\n"
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.ClassDef)
    large = Class("large.py", node)

    assert (large.lines, len(large.methods), large.arguments) == (5, 4, 2)
    assert large.attributes == {"one", "value_0", "value_1", "value_2"}
