"""Whether a schema may replace another without breaking those who write, or read, what it describes.

What others write may be widened, never narrowed; what others read may be narrowed, never widened. Both are
one question: does the *outer* schema take every value that the *inner* one takes? For messages that others
write the old schema is the inner one, for messages that others read the new one is.

Only the words of JSON Schema that the interface uses are known; any other word is an error, never a guess.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from learner_worker.errors import LearnerError

Schema = Mapping[str, Any]
Side = Literal["writers", "readers"]
"""Whether others write the message, or read it."""

_WORDS_ONLY: Final = {"title", "description", "$comment", "examples"}
_LOWER_BOUNDS: Final = ("minLength", "minimum")
_UPPER_BOUNDS: Final = ("maxLength", "maximum")
_SAME_OR_NONE: Final = ("pattern", "not", "format")
_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "string": frozenset({"minLength", "maxLength", *_SAME_OR_NONE}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items"}),
    "boolean": frozenset(),
    "null": frozenset(),
    "any": frozenset(),
}
_TYPE_NAMES: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
_NO_VALUE: Final = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed for the others at a path of the message, whom it breaks, and what would not."""

    path: str
    change: str
    broken: str
    instead: str


@dataclass(frozen=True, slots=True)
class _Branch:
    """One way to satisfy a schema: a type with its limits, or a single value."""

    type: str
    limits: Schema
    value: object = _NO_VALUE

    def __str__(self) -> str:
        return self.type if self.value is _NO_VALUE else repr(self.value)


class Comparison:
    """Compares schemas of two documents, whose `$ref`s point into their own.

    Args:
        side: who is outside.
        writers: who writes the message, as the sentences name them.
        readers: who reads it.
    """

    def __init__(
        self, old_document: Schema, new_document: Schema, side: Side, *, writers: str, readers: str
    ) -> None:
        self._old_document = old_document
        self._new_document = new_document
        self._side = side
        self._writers = writers
        self._readers = readers

    def differences(self, old: Schema, new: Schema, path: str = "") -> list[Difference]:
        """What in the new schema breaks users of the old one; nothing if it is compatible.

        Raises:
            LearnerError: a schema uses a word that is not known here.
        """
        old_branches = list(_branches(old, self._old_document, path))
        new_branches = list(_branches(new, self._new_document, path))
        if self._side == "writers":
            inner_branches, outer_branches = old_branches, new_branches
        else:
            inner_branches, outer_branches = new_branches, old_branches
        found = [self._least(inner, outer_branches, path) for inner in inner_branches]
        changed = [] if self._side == "readers" else list(self._changed_default(old, new, path))
        return list(dict.fromkeys([item for items in found for item in items] + changed))

    def _least(self, inner: _Branch, outer_branches: list[_Branch], path: str) -> list[Difference]:
        """How the closest of the outer branches falls short of the inner one."""
        candidates = [outer for outer in outer_branches if _takes_type(outer, inner)]
        if not candidates:
            return [self._lost_branch(inner, outer_branches, path)]
        return min((list(self._branch(inner, outer, path)) for outer in candidates), key=len)

    def _branch(self, inner: _Branch, outer: _Branch, path: str) -> Iterator[Difference]:
        if outer.type == "any":
            return
        yield from self._bounds(inner, outer, path)
        yield from self._forms(inner, outer, path)
        if outer.type == "object":
            yield from self._object(inner.limits, outer.limits, path)
            if "additionalProperties" in outer.limits:
                others, allowed = (
                    inner.limits.get("additionalProperties", {}),
                    outer.limits["additionalProperties"],
                )
                yield from self._inside(others, allowed, f"{path}.*")
        if outer.type == "array" and "items" in outer.limits:
            yield from self._inside(inner.limits.get("items", {}), outer.limits["items"], f"{path}[]")

    def _bounds(self, inner: _Branch, outer: _Branch, path: str) -> Iterator[Difference]:
        for word in _LOWER_BOUNDS:
            least, allowed = _bound(inner, word), outer.limits.get(word)
            if allowed is not None and (least is None or least < allowed):
                yield self._limit(word, least, allowed, path)
        for word in _UPPER_BOUNDS:
            most, allowed = _bound(inner, word), outer.limits.get(word)
            if allowed is not None and (most is None or most > allowed):
                yield self._limit(word, most, allowed, path)

    def _forms(self, inner: _Branch, outer: _Branch, path: str) -> Iterator[Difference]:
        for word in _SAME_OR_NONE:
            demanded = outer.limits.get(word)
            if (
                demanded is not None
                and inner.limits.get(word) != demanded
                and not _fits(inner, word, demanded)
            ):
                yield self._limit(word, inner.limits.get(word), demanded, path)

    def _object(self, inner: Schema, outer: Schema, path: str) -> Iterator[Difference]:
        old, new = (inner, outer) if self._side == "writers" else (outer, inner)
        was, now = old.get("properties", {}), new.get("properties", {})
        gone = [name for name in was if name not in now]
        demanded = set(outer.get("required", ())) - set(inner.get("required", ()))
        for name in sorted(demanded.difference(gone)):
            yield self._no_longer_sure(_join(path, name))
        for name in gone:
            yield self._gone(_join(path, name))
        for name in sorted(was.keys() & now.keys()):
            yield from self.differences(was[name], now[name], _join(path, name))

    def _inside(self, inner: Schema, outer: Schema, path: str) -> list[Difference]:
        if self._side == "writers":
            return self.differences(inner, outer, path)
        return self.differences(outer, inner, path)

    # --- in words ----------------------------------------------------------------------------------------

    def _no_longer_sure(self, path: str) -> Difference:
        if self._side == "writers":
            return Difference(
                path, "is now required", f"{self._writers} that do not send it break", "make it optional"
            )
        return Difference(
            path, "may now be missing", f"{self._readers} that rely on it break", "always send it"
        )

    def _gone(self, path: str) -> Difference:
        if self._side == "writers":
            return Difference(
                path, "is no longer read", f"what {self._writers} say in it is ignored", "keep it"
            )
        return Difference(path, "is gone", f"{self._readers} that use it break", "keep it")

    def _lost_branch(self, inner: _Branch, outer_branches: list[_Branch], path: str) -> Difference:
        others = ", ".join(map(str, outer_branches))
        if self._side == "writers":
            return Difference(
                path,
                f"no longer takes {inner} (only {others})",
                f"{self._writers} that send it break",
                "take it still",
            )
        return Difference(
            path,
            f"may now be {inner} (was {others})",
            f"{self._readers} that do not expect it break",
            "say it in a field of its own",
        )

    def _limit(self, word: str, inner: object, outer: object, path: str) -> Difference:
        if self._side == "writers":
            return Difference(
                path,
                f"has {word} {_shown(outer)} now, {_shown(inner)} before",
                f"{self._writers} that send what was allowed break",
                "keep the wider limit",
            )
        return Difference(
            path,
            f"has {word} {_shown(inner)} now, {_shown(outer)} before",
            f"{self._readers} that rely on the limit break",
            "keep the limit",
        )

    def _changed_default(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        was, now = old.get("default", _NO_VALUE), new.get("default", _NO_VALUE)
        if was is not _NO_VALUE and now is not _NO_VALUE and was != now:
            yield Difference(
                path,
                f"means {now!r} when it is missing, {was!r} before",
                f"{self._writers} that leave it out are understood otherwise",
                "keep the default",
            )


def _branches(schema: Schema, document: Schema, path: str) -> Iterator[_Branch]:
    """Every way to satisfy the schema."""
    words = {word: value for word, value in schema.items() if word not in _WORDS_ONLY and word != "default"}
    for word in ("$ref", "anyOf"):
        if word in words:
            _require_known(set(words) - {word}, frozenset(), path, f"beside {word}")
            alternatives = [_resolved(words[word], document)] if word == "$ref" else words[word]
            for alternative in alternatives:
                yield from _branches(alternative, document, path)
            return
    values = [words["const"]] if "const" in words else words.get("enum")
    if values is not None:
        _require_known(set(words), frozenset({"const", "enum", "type"}), path, "beside a fixed value")
        yield from (_Branch(_type_of(value, path), {}, value) for value in values)
        return
    types = words.pop("type", "any")
    for name in types if isinstance(types, list) else [types]:
        if name not in _OF_TYPE:
            raise _unknown(f"type {name}", path)
        _require_known(set(words), _OF_TYPE[name], path, f"of type {name}")
        _require_known(set(words.get("not", {})), frozenset({"pattern"}), path, "under not")
        yield _Branch(name, words)


def _resolved(reference: str, document: Schema) -> Schema:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    schema: Schema = found
    return schema


def _type_of(value: object, path: str) -> str:
    if type(value) not in _TYPE_NAMES:
        raise _unknown(f"fixed value {value!r}", path)
    return _TYPE_NAMES[type(value)]


def _require_known(words: set[str], known: frozenset[str], path: str, where: str) -> None:
    for word in sorted(words - known):
        raise _unknown(f"{word} ({where})", path)


def _unknown(word: str, path: str) -> LearnerError:
    return LearnerError(
        f"the compatibility check does not know JSON Schema's {word} at {path or 'the top'}: say in "
        f"{__name__} what it means for writers and readers"
    )


def _takes_type(outer: _Branch, inner: _Branch) -> bool:
    if outer.value is not _NO_VALUE:
        return (inner.type, inner.value) == (outer.type, outer.value)
    return outer.type in {"any", inner.type} or (outer.type, inner.type) == ("number", "integer")


def _bound(branch: _Branch, word: str) -> Any:
    if branch.value is _NO_VALUE:
        return branch.limits.get(word)
    return len(branch.value) if isinstance(branch.value, str) else branch.value


def _fits(branch: _Branch, word: str, demanded: Any) -> bool:
    """Whether a single text matches a pattern, or matches none; a format is never guessed."""
    if not isinstance(branch.value, str) or word == "format":
        return False
    if word == "pattern":
        return re.search(demanded, branch.value) is not None
    return re.search(demanded["pattern"], branch.value) is None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(limit: object) -> str:
    return "none" if limit is None else str(limit)
