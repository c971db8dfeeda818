"""What is thrown at the learner: good messages and headers, and what is nearly good in every way.

A message is a list of members, names and raw JSON tokens, so that it can be broken where no encoder would:
doubled names, tokens of any grammar, nesting, framing, and at last single bytes.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from hypothesis import strategies as st

from learner_worker.contract.topics import EventKind

S = TypeVar("S")
T = TypeVar("T")
ValueT = TypeVar("ValueT", bytes, bytes | None)
Headers = list[tuple[str, bytes]]
NULL: Final = cast("bytes", None)
"""A header's null value: Kafka allows it, though the code's types do not say so."""
Members = list[tuple[str, bytes]]
MEBIBYTE: Final = 1024 * 1024
MAX_SATS: Final = 2**53 - 1
DEEP: Final = 100_000

_OF_SIXTEEN = st.integers(0, 15)


def mostly(
    usual: st.SearchStrategy[S], seldom: st.SearchStrategy[T], *, of_sixteen: int = 15
) -> st.SearchStrategy[S | T]:
    """So many of sixteen are of the usual kind; `one_of` would give every alternative the same share."""
    return _OF_SIXTEEN.flatmap(lambda number: usual if number < of_sixteen else seldom)


# --- tokens ----------------------------------------------------------------------------------------------

_CHARACTERS = st.one_of(
    st.sampled_from("ab1-é🤖\u00a0\u2028\ufeff\ufffd\uffff"),
    st.characters(exclude_categories=["Cs", "Cc"]),
)
_CONTROLS = st.sampled_from("\x00\x07\n\r\t\x1b\x1f\x7f\x80\x85\x9f")
IDS: Final = st.one_of(
    st.sampled_from(["a", "b", "agent-1", "task-1", "é", "🤖", "🤖" * 256, "x" * 256, "NaN", "Infinity"]),
    st.text(_CHARACTERS, min_size=1, max_size=12),
)
"""Ids that keep the contract."""
ODD_IDS: Final = st.one_of(
    st.just(""),
    st.sampled_from(["x" * 257, "🤖" * 257, "a\r\nlearner-error: OK", "\x1b[31magent"]),
    st.builds("{}{}{}".format, st.text("ab", max_size=2), _CONTROLS, st.text("ab", max_size=2)),
)
"""Ids that break it."""
SATS: Final = st.one_of(
    st.sampled_from([0, 1, 2, 1_999, 2**31, 2**32, MAX_SATS - 1, MAX_SATS]), st.integers(0, MAX_SATS)
)
TEXTS: Final = st.one_of(
    st.sampled_from(
        [*["", "parse invoices", "the PARSER", "NaN", "-Infinity"] * 4, "x" * 16_384, "🤖" * 16_384]
    ),
    st.text(st.one_of(_CHARACTERS, _CONTROLS), max_size=20),
)
_DATES = st.one_of(
    st.sampled_from(
        [
            "1970-01-01",
            "1969-12-31",
            "9998-12-31",
            "9999-01-01",
            "2000-02-29",
            "1900-02-29",
            "2026-02-29",
            "2028-02-29",
            "2026-04-31",
            "2026-00-10",
            "2026-13-01",
            "2026-01-00",
            "2026-1-1",
            "0000-01-01",
            "10000-01-01",
            "२०२६-01-01",
            "20260101",
        ]
    ),
    st.dates().map(str),
)
_HOURS = st.sampled_from(["00", "12", "23", "24", "7", "-1"])
_MINUTES = st.sampled_from(["00", "59", "60", "5"])
_SECONDS = st.sampled_from(["00", "59", "60", "61", ""])
_FRACTIONS = st.one_of(
    st.sampled_from(["", ".", ".0", ".999999", ".9999999999", ",5", "." + "1" * 300, ".1e3"]),
    st.integers(0, 10**9).map(".{}".format),
)
_OFFSETS = st.sampled_from(
    ["Z", "z", "", "+00:00", "-00:00", "+23:59", "-23:59", "+24:00", "+01:60", "+0100", "+1:00", " Z", "UTC"]
)
TIMES: Final = (
    st.datetimes()
    .map(lambda moment: f"{moment.isoformat(timespec='microseconds')}Z")
    .filter(lambda text: "1970" <= text[:4] <= "9998")
)
"""Times that keep the contract."""
EDGE_TIMES: Final = st.builds(
    "{}{}{}:{}:{}{}{}".format,
    *(_DATES, st.sampled_from("TTTTt _"), _HOURS, _MINUTES, _SECONDS, _FRACTIONS, _OFFSETS),
)
"""Times around the edges of RFC 3339's grammar, on either side."""
_GRAMMATICAL_TIMES = st.builds(
    "{}T{}:{}:{}{}".format,
    st.sampled_from(["1970-01-01", "2026-06-30", "9998-12-31", "2028-02-29"]),
    st.sampled_from(["00", "12", "23"]),
    st.sampled_from(["00", "59"]),
    st.sampled_from(["00", "59"]),
    st.sampled_from(["Z", "z", "+00:00", "+23:59", "-23:59", ".5Z", ".1234567-00:30"]),
) | st.sampled_from(["1970-01-01T23:59:60Z", "2026-06-30T23:29:60.9-00:30", "2026-01-01t00:58:60+00:59"])


def token(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False).encode()


_NUMBERS = st.one_of(
    st.sampled_from(
        [
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "-1e999",
            "1e400",
            "1e-999",
            "1.0",
            "-0",
            "-0.0",
            "0",
            "1e2",
            "-1",
            "01",
            "+1",
            ".5",
            "1.",
            "0x10",
            "1_0",
            "1e",
            "9e9999999",
            "9007199254740991",
            "9007199254740992",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551616",
            "-9223372036854775809",
            "9007199254740991.0",
            "0.1",
        ]
    ),
    st.sampled_from(["9" * 400, "9" * 4_300, "9" * 4_301, "1" + "0" * 20_000, "0." + "3" * 5_000]),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
).map(str.encode)
_TEXTS = st.one_of(
    st.sampled_from(
        [
            *(
                rb'"\ud800"',
                rb'"\udc00\ud800"',
                rb'"\ud83d\ude00"',
                rb'"a\ud83d"',
                rb'"\u0000"',
                rb'"\u0085"',
            ),
            *(
                b'"\xff"',
                b'"\xed\xa0\x80"',
                b'"\xc0\xaf"',
                b'"\xf4\x90\x80\x80"',
                b'"\x00"',
                b'"\n"',
                b'"\x7f"',
            ),
            *(b"'a'", b'"', b'"\\', rb'"\q"', rb'"\u12"', b'"12"', b'""', b'"true"', b'"null"'),
        ]
    ),
    st.one_of(IDS, ODD_IDS, TEXTS, EDGE_TIMES, _GRAMMATICAL_TIMES).map(token),
    st.text(max_size=5).map(lambda text: json.dumps(text).encode()),
)


_NESTED = st.tuples(
    st.sampled_from([1, 2, 50, 150, 250, 900, 1_100, 5_000, DEEP]),
    st.sampled_from([(b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")]),
).map(lambda drawn: drawn[1][0] * drawn[0] + drawn[1][1] * drawn[0])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
).map(lambda value: json.dumps(value).encode())
TOKENS: Final = st.one_of(
    st.sampled_from([b"true", b"false", b"null", b"True", b"None", b"[]", b"{}", b"", b" ", b"undefined"]),
    *(_NUMBERS, _TEXTS, _JSON, _NESTED),
)
"""Anything that may stand where a value is expected."""

# --- messages --------------------------------------------------------------------------------------------

_TIME = st.one_of(TIMES, _GRAMMATICAL_TIMES).map(token)
_ID = IDS.map(token)
_NULL = st.just(b"null")
_SATS = SATS.map(token)
_TEXT = TEXTS.map(token)
TIME_NAMES: Final = ("placed_at", "closed_at", "finished_at", "deadline")
Shape = tuple[Mapping[str, st.SearchStrategy[bytes]], Mapping[str, st.SearchStrategy[bytes]]]
"""The members that a message must have, and those that it may have."""
EVENT_SHAPES: Final[Mapping[EventKind, Shape]] = {
    "bid-placed": (
        {"task_id": _ID, "agent_id": _ID, "bid_sats": _SATS, "description": _TEXT},
        {"placed_at": _TIME | _NULL},
    ),
    "auction-closed": (
        {"task_id": _ID, "winner_agent_id": _ID | _NULL, "winning_bid_sats": _SATS | _NULL},
        {"closed_at": _TIME | _NULL, "description": _TEXT | _NULL},
    ),
    "task-finished": (
        {"task_id": _ID, "agent_id": _ID, "succeeded": st.sampled_from([b"true", b"false"])},
        {"finished_at": _TIME | _NULL},
    ),
}
REQUEST_SHAPE: Final[Shape] = (
    {"agent_id": _ID, "base_bid_sats": _SATS, "description": _TEXT},
    {
        "request_id": _ID | _NULL,
        "deadline": _TIME | _NULL,
        "include": st.sampled_from([b"null", b"[]", b'["learned_keywords"]']),
    },
)

FULL_REQUEST_SHAPE: Final[Shape] = (
    REQUEST_SHAPE[0],
    {
        **REQUEST_SHAPE[1],
        "strategy": _ID | _NULL,
        "task_id": _ID | _NULL,
        "cost_sats": _SATS | _NULL,
        "failure_cost_sats": _SATS | _NULL,
    },
)
"""With the fields of strategies, too: a worker refuses strategies that it does not have."""


def in_any_order(lists: st.SearchStrategy[list[T]]) -> st.SearchStrategy[list[T]]:
    """Lists in other orders, cheaply: turned round, and begun elsewhere."""
    return st.builds(_turned, lists, st.integers(0, 11))


def _turned(items: list[T], number: int) -> list[T]:
    start = number // 2 % max(len(items), 1)
    found = items[start:] + items[:start]
    return found[::-1] if number % 2 else found


def good_members(shape: Shape) -> st.SearchStrategy[Members]:
    """The members of a message that keeps the contract, in any order."""
    required, optional = shape
    found = st.fixed_dictionaries(dict(required), optional=dict(optional))
    return in_any_order(found.map(lambda members: list(members.items())))


@dataclass(frozen=True, slots=True)
class _Change:
    """What is done to one member: `how` to the member at `index` modulo their number."""

    how: str
    index: int
    name: str
    token: bytes


_CHANGES = st.builds(
    _Change,
    st.sampled_from(["replace", "replace", "drop", "double", "rename", "add"]),
    st.integers(0, 10),
    st.sampled_from(
        ["note", "", "task_id", "agent_id", "bid_sats", "Agent_id", "a\x00", "\u0430gent_id", "v"]
    ),
    TOKENS,
)


def _changed(members: Members, changes: Sequence[_Change]) -> Members:
    found = list(members)
    for change in changes:
        index = change.index % max(len(found), 1)
        there = found[index : index + 1]
        after = {
            "replace": [(name, change.token) for name, _ in there],
            "drop": [],
            "double": [*there, *((name, change.token) for name, _ in there)],
            "rename": [(change.name, kept) for _, kept in there],
            "add": [*there, (change.name, change.token)],
        }
        found[index : index + 1] = after[change.how]
    return found


def _written(members: Members, space: bytes) -> bytes:
    inner = (b"," + space).join(
        json.dumps(name).encode() + b":" + space + content for name, content in members
    )
    return b"{" + space + inner + space + b"}"


_SPACES = st.sampled_from([b"", b"", b" ", b"\n\t", b"\r\n", b"\x0b", b"\xc2\xa0"])
_SEAMS = st.sampled_from([b"", b"\xef\xbb\xbf", b" ", b"\x00", b"\xff", b"{}", b",", b"]", b"}", b"\x1b[2J"])


def _pierced(value: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Bytes replaced, cut out or put in at places, counted modulo the length."""
    for place, length, content in edits:
        start = place % (len(value) + 1)
        value = value[:start] + content + value[start + length :]
    return value


_EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3
)
_FRAMES = st.one_of(st.just(b"\x00\x00\x00\x00\x07"), st.binary(min_size=4, max_size=4).map(b"\x00".__add__))
_BAD_FRAMES = st.binary(max_size=6).map(b"\x00".__add__)


def good_values(shape: Shape, *, timeless: bool = False) -> st.SearchStrategy[bytes]:
    """Values that keep the contract, some of them framed as a schema registry's client does.

    Most are without a time of their own, if `timeless`.
    """
    members = good_members(shape)
    if timeless:
        required, optional = shape
        rest = {name: content for name, content in optional.items() if name not in TIME_NAMES}
        members = mostly(good_members((required, rest)), members, of_sixteen=13)
    plain = st.builds(_written, members, st.sampled_from([b"", b" ", b"\n"]))
    return plain | st.builds(bytes.__add__, _FRAMES, plain)


def _padded(value: bytes, size: int) -> bytes:
    """A JSON value with white space up to a size."""
    return value + b" " * (size - len(value))


_JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?|true|false|null|[\[\]{},:]')


def _retokened(value: bytes, place: int, replacement: bytes) -> bytes:
    """One token of a JSON text, however deep it lies, replaced."""
    found = list(_JSON_TOKEN.finditer(value))
    if not found:
        return value + replacement
    one = found[place % len(found)]
    return value[: one.start()] + replacement + value[one.end() :]


def broken(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Good JSON texts, and the same broken at a token, at bytes, at an end, or not JSON at all."""
    return st.one_of(
        good,
        st.builds(_retokened, good, st.integers(0, 60), TOKENS),
        st.builds(_retokened, good, st.integers(0, 60), TOKENS),
        st.builds(_pierced, good, _EDITS),
        st.builds(lambda before, value, after: before + value + after, _SEAMS, good, _SEAMS),
        st.builds(lambda value, length: value[: length % (len(value) + 1)], good, st.integers(0, 500)),
        TOKENS,
        st.binary(max_size=30),
    )


def values(shape: Shape) -> st.SearchStrategy[bytes | None]:
    """Values of every kind: good, broken in members, tokens, bytes, frames and size, and mere noise."""
    written = st.builds(
        _written,
        st.builds(_changed, good_members(shape), st.lists(_CHANGES, min_size=1, max_size=3)),
        _SPACES,
    )
    good = good_values(shape)
    framed = st.builds(bytes.__add__, _FRAMES | _BAD_FRAMES, good | written)
    return st.one_of(good, written, written, broken(good), framed, st.none())


def sizable(shape: Shape) -> st.SearchStrategy[bytes]:
    """Good values around 1 MiB, and a description or a bracket of that size."""
    sizes = st.sampled_from([MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 2 * MEBIBYTE - 300_000])
    padded = st.builds(_padded, good_values(shape), sizes)
    noise = st.sampled_from([b"[" * MEBIBYTE, b'"' + b"x" * (MEBIBYTE - 2) + b'"', b"9" * MEBIBYTE])
    return padded | noise


def of_any_kind(
    values_of: Callable[[Shape], st.SearchStrategy[ValueT]],
) -> st.SearchStrategy[tuple[EventKind, ValueT]]:
    """Values of the three events, each with its kind."""
    return st.one_of([st.tuples(st.just(kind), values_of(shape)) for kind, shape in EVENT_SHAPES.items()])


REQUESTS: Final = values(REQUEST_SHAPE)

# --- records ---------------------------------------------------------------------------------------------

KEYS: Final = st.one_of(
    st.none(), st.sampled_from([b"", b"agent-1", b"\xff\x00", b"k" * 1_000]), st.binary(max_size=8)
)
_BINARY = st.one_of(st.binary(max_size=9), st.sampled_from([b"\x1b[31m", b"a\r\nb: c", b"\xff\xfe", b""]))
_PARTITIONS = st.one_of(
    st.sampled_from(
        [
            *(
                b"0",
                b"1",
                b"2",
                b"3",
                b"007",
                b"-1",
                b"+1",
                b" 1",
                b"1.0",
                b"99999999999",
                b"2147483648",
                b"",
            ),
            *(b"\x00\x00\x00\x00", b"\x00\x00\x00\x01", b"\x00\x00\x00\x02", b"\xff\xff\xff\xff", b"0001"),
            *("٣".encode(), b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00\x00\x00\x00\x01", b"1" * 2_000),
        ]
    ),
    st.binary(max_size=9),
)
_CORRELATIONS = st.one_of(
    st.sampled_from([b"c-1", b"x" * 1_024, b"x" * 1_025, b"\x00" * 16, b"\r\nlearner-error: OK"]), _BINARY
)
_MOMENTS = st.one_of(TIMES, EDGE_TIMES, _GRAMMATICAL_TIMES).map(str.encode) | _BINARY
CORRELATION_NAMES: Final = ("correlation_id", "kafka_correlationId", "REPLY_CORRELATION_ID")
TOPIC_NAMES: Final = ("reply_to", "kafka_replyTopic", "REPLY_TOPIC")
PARTITION_NAMES: Final = ("reply_partition", "kafka_replyPartition", "REPLY_PARTITION")
_OTHER_NAMES = (
    *("learner-error", "kafka_nest-err", "kafka_nest-is-disposed", "kafka_offset", "ce_id", "ce_type", ""),
    *("Correlation_Id", "KAFKA_CORRELATIONID", "\x1b[31m", "a\r\nb", "é", "content-type", "learner-reason"),
    *("kafka_dlt-original-topic", "learner-origin", "learner-truncated", "learner-replayed"),
)


def headers(topics: Sequence[str]) -> st.SearchStrategy[Headers]:
    """Headers of every convention, mixed, doubled, null, off the list; `topics` may be named for replies."""
    named = st.one_of(
        st.sampled_from([topic.encode() for topic in topics]),
        st.sampled_from(
            [b"learner-outcomes", b"suggest-bid-replies.", b"suggest-bid-replies.\r\n", b"\xff", b""]
        ),
    )
    one = st.one_of(
        st.tuples(st.sampled_from(CORRELATION_NAMES), _CORRELATIONS),
        st.tuples(st.sampled_from(TOPIC_NAMES), named),
        st.tuples(st.sampled_from(PARTITION_NAMES), _PARTITIONS),
        st.tuples(st.just("deadline"), _MOMENTS),
        st.tuples(st.sampled_from(_OTHER_NAMES), _BINARY),
        st.tuples(
            st.sampled_from([*CORRELATION_NAMES, *TOPIC_NAMES, *PARTITION_NAMES, "deadline"]), st.just(NULL)
        ),
    )
    whole = conventions(topics)
    mixed = in_any_order(st.builds(list.__add__, whole, st.lists(one, max_size=2)))
    return st.one_of(st.just([]), whole, mixed, st.lists(one, max_size=5))


def conventions(topics: Sequence[str]) -> st.SearchStrategy[Headers]:
    """What a client of one of the conventions sends, and one that sends nothing."""
    return st.one_of(
        st.just([]), *(_whole(convention, topics) for convention in range(len(CORRELATION_NAMES)))
    )


def _whole(convention: int, topics: Sequence[str]) -> st.SearchStrategy[Headers]:
    """What a client of a convention sends."""
    partition = st.sampled_from([b"0", b"\x00\x00\x00\x00", b"1", b"\x00\x00\x00\x01"])
    return st.tuples(
        st.binary(min_size=1, max_size=16), st.sampled_from([topic.encode() for topic in topics]), partition
    ).map(
        lambda drawn: list(
            zip(
                (CORRELATION_NAMES[convention], TOPIC_NAMES[convention], PARTITION_NAMES[convention]),
                drawn,
                strict=True,
            )
        )
    )


HOPS: Final = st.one_of(
    st.sampled_from(
        [b"bid-placed", b"auction-closed", b"task-finished", b"suggest-bid-requests", b"", b"\xff", NULL]
    )
)
"""Values of the header that marks a moved record."""
