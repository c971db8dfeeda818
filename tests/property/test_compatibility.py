"""What the comparison calls compatible is compatible: random schemas, judged by a JSON Schema validator."""

from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from learner_worker.interface.compatibility import Comparison, Side

Schema = dict[str, Any]
NAMES = ["a", "b"]
TEXTS = st.text(alphabet="xy0", max_size=4)
NUMBERS = st.integers(-3, 3)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from([-1.5, 0.5]), TEXTS)


def some(words: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Schema]:
    """Any of the words, each with its value."""
    return st.fixed_dictionaries({}, optional=words)


PATTERNS = st.sampled_from(["x", "^x", "0$"])
TEXT_LIMITS = some(
    {
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(0, 3),
        "pattern": PATTERNS,
        "not": st.fixed_dictionaries({"pattern": PATTERNS}),
    }
)
NUMBER_LIMITS = some({"minimum": NUMBERS, "maximum": NUMBERS})
SIMPLE = st.one_of(
    st.just({}),
    st.sampled_from(["null", "boolean"]).map(lambda name: {"type": name}),
    TEXT_LIMITS.map(lambda limits: {"type": "string", **limits}),
    st.tuples(st.sampled_from(["integer", "number"]), NUMBER_LIMITS).map(
        lambda two: {"type": two[0], **two[1]}
    ),
    SCALARS.map(lambda value: {"const": value}),
    st.lists(SCALARS, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    st.lists(st.sampled_from(["null", "boolean", "string"]), min_size=1, unique=True).map(
        lambda names: {"type": names}
    ),
)


def compound(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Alternatives, arrays and objects of simpler schemas; all objects have the same fields."""
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda items: {"anyOf": items}),
        some({"items": inner}).map(lambda words: {"type": "array", **words}),
        st.builds(
            lambda properties, required: {"type": "object", "properties": properties, "required": required},
            st.fixed_dictionaries(dict.fromkeys(NAMES, inner)),
            st.lists(st.sampled_from(NAMES), unique=True),
        ),
    )


SCHEMAS = st.recursive(SIMPLE, compound, max_leaves=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, inner)),
    ),
    max_leaves=5,
)


def compatible(old: Schema, new: Schema, side: Side) -> bool:
    return not Comparison(old, new, side, writers="writers", readers="readers").differences(old, new)


def takes(schema: Schema, value: object) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=1, max_size=20))
def test_what_is_called_compatible_takes_every_old_message(
    old: Schema, new: Schema, values: list[Any]
) -> None:
    """A value that the old schema takes is taken by a new one that is compatible for those who write it."""
    if not compatible(old, new, "writers"):
        return
    event("compatible")

    assert [value for value in values if takes(old, value) and not takes(new, value)] == []


@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=1, max_size=20))
def test_what_is_called_compatible_says_nothing_unheard_of(
    old: Schema, new: Schema, values: list[Any]
) -> None:
    """A value that a new schema allows was allowed by the old one, if they are compatible for readers."""
    if not compatible(old, new, "readers"):
        return
    event("compatible")

    assert [value for value in values if takes(new, value) and not takes(old, value)] == []


@given(SCHEMAS)
def test_a_schema_is_compatible_with_itself(schema: Schema) -> None:
    """No sentence where nothing changed."""
    assert compatible(schema, schema, "writers")
    assert compatible(schema, schema, "readers")
