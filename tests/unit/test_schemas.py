"""The JSON Schemas accept and refuse what the code does, and the files are current."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from learner_worker.commands.schemas import check, export
from learner_worker.contract.decode import decode_event, decode_request
from learner_worker.contract.encode import encode_message
from learner_worker.contract.facts import decode_fact, decode_outcome_record
from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import (
    INTERNAL,
    Adjustment,
    AgentMetrics,
    AgentMetricsRecord,
    LearnedKeyword,
    ReplyError,
    SuggestBidError,
    SuggestBidReply,
)
from learner_worker.contract.topology import decode_topology
from learner_worker.errors import LearnerError
from learner_worker.interface.schemas import schemas

SCHEMAS = schemas()
COMMITTED = Path(__file__).parents[2] / "schemas"
PAGE = COMMITTED.parent / "docs" / "interface.md"
MOST_SATS = 2**53 - 1
NOON = "2026-01-31T12:00:00Z"

BID = {"task_id": "t", "agent_id": "a", "bid_sats": 7, "description": "d", "placed_at": NOON}
CLOSE = {
    "task_id": "t",
    "winner_agent_id": "a",
    "winning_bid_sats": 7,
    "closed_at": NOON,
    "description": "d",
}
FINISH = {"task_id": "t", "agent_id": "a", "succeeded": True, "finished_at": NOON}
REQUEST = {
    "agent_id": "a",
    "base_bid_sats": 7,
    "description": "d",
    "request_id": "r",
    "deadline": NOON,
    "include": ["learned_keywords"],
}
FACT = {
    "task_id": "t",
    "agent_id": "a",
    "close": {
        "closed_at": 5,
        "winner": "a",
        "winning_bid_sats": 7,
        "description_digest": "x",
        "description": "d",
    },
    "bid": {"placed_at": 4, "bid_sats": 7, "description": "d"},
    "result": {"finished_at": 6, "succeeded": True},
    "v": 1,
}
TOPOLOGY = {
    "generation": 1,
    "shards": 12,
    "cluster_id": "c",
    "incarnation": "i",
    "owner_group": "g",
    "topics": {"outcomes": "o", "metrics": "m", "rerouted": "r", "dead_letters": "d"},
    "v": 1,
}
MARKER = {"agent_id": "a", "forget_until": 5, "v": 2}

Read = Callable[[bytes], object]
READ: dict[str, tuple[Read, dict[str, Any]]] = {
    "bid-placed": (lambda value: decode_event("bid-placed", value), BID),
    "auction-closed": (lambda value: decode_event("auction-closed", value), CLOSE),
    "task-finished": (lambda value: decode_event("task-finished", value), FINISH),
    "suggest-bid-request": (decode_request, REQUEST),
    "outcome-fact": (decode_fact, FACT),
    "forget-marker": (decode_outcome_record, MARKER),
    "topology": (decode_topology, TOPOLOGY),
}

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    MOST_SATS,
    MOST_SATS + 1,
    1.5,
    "",
    "12",
    "é" * 256,
    "\U0001f980" * 257,
    "d" * 16_384,
    "d" * 16_385,
    "two\nlines",
    "ends\n",
    "\x00",
    "\x1f",
    "\x7f",
    "\x9f",
    "\xa0",
    NOON,
    "2026-01-31T12:00:00.123456789+05:30",
    "2026-01-31t12:00:00z",
    "2026-01-31 12:00:00Z",
    "2026-01-31T12:00:00",
    "2026-01-31",
    "2026-02-30T12:00:00Z",
    [],
    ["learned_keywords"],
    ["learned_keywords", "learned_keywords"],
    ["something"],
    [None],
    {},
    {"closed_at": 5},
    {"finished_at": 5, "succeeded": "yes"},
    {"placed_at": 5, "bid_sats": 0, "description": "", "unknown": 1},
]

KEYWORD = LearnedKeyword(keyword="python", wins=3, failures=1, net=2)
METRICS = AgentMetrics(
    total_bids=4,
    auctions_won=1,
    tasks_completed=1,
    tasks_failed=0,
    win_rate=0.25,
    success_rate=1.0,
    avg_winning_bid_sats=90.5,
)
REPLY = SuggestBidReply(
    request_id="r",
    agent_id=AgentId("a"),
    base_bid_sats=100,
    suggested_bid_sats=90,
    strategy="classic",
    factor=0.9,
    adjustments=[Adjustment(rule="success_rate_high", multiplier=0.9, reason="reliable")],
    metrics=METRICS,
    learned_keywords=[KEYWORD],
    as_of=NOON,
    stale=False,
)
BARE_REPLY = SuggestBidReply(
    agent_id=AgentId("a"),
    base_bid_sats=0,
    suggested_bid_sats=0,
    strategy="classic",
    factor=1.0,
    adjustments=[],
    metrics=METRICS,
    as_of=None,
    stale=True,
)
ERROR = SuggestBidError(
    request_id="r",
    agent_id=AgentId("a"),
    error=ReplyError(code=INTERNAL, message="a fault", retry_after_ms=50),
)
BARE_ERROR = SuggestBidError(error=ReplyError(code=INTERNAL, message="a fault"))
RECORD = AgentMetricsRecord(
    **dict(METRICS),
    agent_id=AgentId("a"),
    learned_keywords=[KEYWORD],
    top_keywords=[KEYWORD],
    as_of=NOON,
    outcome_offset=12,
)


def is_date_time(value: object) -> bool:
    """RFC 3339, as a validator that asserts formats reads it: written here a second time, on purpose."""
    if not isinstance(value, str):
        return True
    date = r"\d{4}-(?:(?!02)\d\d-\d\d|02-[012]\d)"
    clock = r"\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"
    return re.fullmatch(f"{date}T{clock}", value.upper(), re.ASCII) is not None


FORMATS = FormatChecker(formats=[])
FORMATS.checks("date-time")(is_date_time)


def schema_accepts(name: str, body: object) -> bool:
    return bool(Draft202012Validator(SCHEMAS[name], format_checker=FORMATS).is_valid(body))


def code_accepts(read: Read, body: object) -> bool:
    try:
        read(json.dumps(body).encode())
    except LearnerError:
        return False
    return True


def variants(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The body without each of its fields, and with each field as every value, at every depth."""
    for field, inner in body.items():
        yield {name: value for name, value in body.items() if name != field}
        yield from ({**body, field: value} for value in VALUES)
        if isinstance(inner, dict):
            yield from ({**body, field: variant} for variant in variants(inner))


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_json_schema_with_a_name_and_a_description(name: str) -> None:
    """Each document is JSON Schema 2020-12 and says what it is."""
    schema = SCHEMAS[name]

    Draft202012Validator.check_schema(schema)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:learner-worker:{name}:v{2 if name in {'forget-marker', 'topology'} else 1}"
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize("name", READ)
def test_schema_agrees_with_the_code_on_what_is_read(name: str) -> None:
    """Whatever one field is, missing included, the schema and the code agree on the message."""
    read, body = READ[name]
    bodies: list[object] = [body, {**body, "unknown": [1]}, *variants(body), *VALUES]

    agreed = [schema_accepts(name, body) for body in bodies]

    assert agreed == [code_accepts(read, body) for body in bodies]
    assert agreed[:2] == [True, True]
    assert agreed.count(False) > len(VALUES)


SATS = [
    ("bid-placed", BID, "bid_sats"),
    ("auction-closed", CLOSE, "winning_bid_sats"),
    *(
        ("suggest-bid-request", {**REQUEST, "cost_sats": 1, "failure_cost_sats": 1}, field)
        for field in ("base_bid_sats", "cost_sats", "failure_cost_sats")
    ),
]


@pytest.mark.parametrize("text", ["1000.0", "1e3", "1000.0e0", "-0.0", "9007199254740991.0"])
@pytest.mark.parametrize(("name", "body", "field"), SATS, ids=[field for *_, field in SATS])
def test_only_the_code_refuses_a_whole_number_with_a_fraction_or_an_exponent(
    name: str, body: dict[str, Any], field: str, text: str
) -> None:
    """A schema judges values, to which 1000.0 is 1000: its comment, and the refusal, say how to write it."""
    value = json.dumps({**body, field: "?"}).replace('"?"', text).encode()

    assert schema_accepts(name, json.loads(value))
    assert "1000.0 and 1e3 are refused" in SCHEMAS[name]["$comment"]
    with pytest.raises(LearnerError, match=f"^{field}: .* integer, written without a fraction or an exp"):
        READ[name][0](value)


def test_every_integer_that_others_write_is_among_these() -> None:
    """A new field of theirs that is an integer has to be in the test above."""
    accepted = ("bid-placed", "auction-closed", "task-finished", "suggest-bid-request")
    integers = {
        (name, field)
        for name in accepted
        for field, schema in SCHEMAS[name]["properties"].items()
        if '"integer"' in json.dumps(schema)
    }

    assert integers == {(name, field) for name, _, field in SATS}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("suggest-bid-reply", REPLY),
        ("suggest-bid-reply", BARE_REPLY),
        ("suggest-bid-error", ERROR),
        ("suggest-bid-error", BARE_ERROR),
        ("agent-metrics", RECORD),
    ],
    ids=["reply", "bare-reply", "error", "bare-error", "metrics"],
)
def test_schema_describes_what_is_written(
    name: str, message: SuggestBidReply | SuggestBidError | AgentMetricsRecord
) -> None:
    """What the learner writes is valid; without a required field, or with text for a number, it is not."""
    body = json.loads(encode_message(message))
    required = SCHEMAS[name]["required"]

    assert schema_accepts(name, body)
    assert [field for field in required if schema_accepts(name, {**body, field: "no"})] == [
        field for field in required if isinstance(body[field], str) or field == "as_of"
    ]
    for field in required:
        assert not schema_accepts(name, {key: value for key, value in body.items() if key != field})


@pytest.mark.parametrize("field", ["request_id", "learned_keywords"])
def test_written_fields_are_left_out_and_never_null(field: str) -> None:
    """A consumer may rely on it: an optional field of a reply is absent or has a value."""
    body = json.loads(encode_message(BARE_REPLY))

    assert field not in body
    assert not schema_accepts("suggest-bid-reply", {**body, field: None})


def test_committed_schemas_are_current() -> None:
    """The files in schemas/, and the page, are those of the code: if not, run `make schemas`."""
    assert check(COMMITTED, PAGE) == []


def test_check_is_silent_on_what_export_wrote(tmp_path: Path) -> None:
    """Export makes the folder, one file a message, the document and the page; the same bytes each time."""
    folder, page = tmp_path / "new" / "schemas", tmp_path / "docs" / "interface.md"

    files = export(folder, page)
    first = [path.read_bytes() for path in files]

    assert check(folder, page) == []
    assert sorted(files) == sorted([*folder.iterdir(), page])
    assert [path.name for path in files] == [
        *(f"{name}.schema.json" for name in SCHEMAS),
        "asyncapi.json",
        "interface.md",
    ]
    assert [path.read_bytes() for path in export(folder, page)] == first


def test_check_names_each_file_that_is_wrong(tmp_path: Path) -> None:
    """A missing, a stale and an unknown file get a sentence each; other files are none of its business."""
    missing, stale, *_, document, page = export(tmp_path, tmp_path / "page.md")
    missing.unlink()
    for path in (stale, document, page):
        path.write_text("{}", encoding="utf-8")
    (tmp_path / "old.schema.json").touch()
    (tmp_path / "README.md").touch()

    assert check(tmp_path, page) == [
        f"{missing} is missing",
        f"{stale} is not what the code says",
        f"{document} is not what the code says",
        f"{page} is not what the code says",
        f"{tmp_path / 'old.schema.json'} belongs to no message",
    ]
