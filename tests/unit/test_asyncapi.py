"""The AsyncAPI document and its page say what the code does."""

import ast
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

import learner_worker
from learner_worker.contract.decode import decode_event, decode_request, event_of, request_of
from learner_worker.contract.encode import encode_metrics, encode_reply
from learner_worker.contract.events import AuctionClosed, BidPlaced, TaskFinished
from learner_worker.contract.fields import AgentId
from learner_worker.contract.headers import (
    DEADLINE_HEADER,
    TRACE_HEADERS,
    HeaderConvention,
    Headers,
    reply_address,
    reply_headers,
)
from learner_worker.contract.suggestions import ERROR_CODES, ReplyError, SuggestBidRequest
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicName, Topics
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.errors import LearnerError, RecordError
from learner_worker.interface.asyncapi import asyncapi, components
from learner_worker.interface.examples import EXAMPLES, example_of
from learner_worker.interface.page import page
from learner_worker.interface.schemas import schemas
from learner_worker.kafka.records import dead_letter, moved
from learner_worker.requests.queue import restoring
from learner_worker.shard.publishing import OWNER_HEADER
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC

DOCUMENT = asyncapi("1.2.3")
CHANNELS = DOCUMENT["channels"]
OPERATIONS = DOCUMENT["operations"]
MESSAGES = DOCUMENT["components"]["messages"]
NAMES = Topics(advice_log=True).named()
ASYNCAPI_SCHEMA = Path(__file__).parents[1] / "programs" / "asyncapi" / "asyncapi-3.0.0.schema.json"
ELSEWHERE = TopicName("elsewhere")
SOURCES = sorted(Path(learner_worker.__file__).parent.rglob("*.py"))


@dataclass(frozen=True)
class Lying:
    """A record as a consumer hands it over."""

    topic: str = "bid-placed"
    partition: int = 3
    offset: int = 70_000
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"key"
    value: bytes | None = b"{}"
    headers: Headers = ()


def resolved(reference: dict[str, str]) -> Any:
    found: Any = DOCUMENT
    for step in reference["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return resolved(found) if isinstance(found, dict) and "$ref" in found else found


def names_and_required(message: str) -> tuple[list[str], list[str]]:
    headers = MESSAGES[message]["headers"]
    return sorted(headers["properties"]), sorted(headers.get("required", []))


def names(headers: Headers) -> list[str]:
    return sorted(name for name, _ in headers)


def constructed(class_name: str) -> Iterator[str]:
    """The first argument of every call of a class in the sources, where it is written out."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == class_name:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant):
                    yield str(first.value)


def test_every_topic_is_a_channel_with_its_settings() -> None:
    """No topic is forgotten, and its settings are those that `topics create` writes."""
    by_address = {channel["address"]: channel for channel in CHANNELS.values() if channel["address"]}

    assert sorted(by_address) == sorted(NAMES.all)
    for topic in NAMES.all:
        said = by_address[topic]["bindings"]["kafka"].get("topicConfiguration", {})
        as_text = {name: value[0] if isinstance(value, list) else str(value) for name, value in said.items()}
        assert as_text == NAMES.configuration(topic)
        assert by_address[topic]["x-sharded"] == (topic in NAMES.sharded)


def test_document_names_its_version() -> None:
    """The version is that of the package, handed in."""
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_every_reference_leads_somewhere_and_replies_to_named_topics_have_no_address() -> None:
    """AsyncAPI asks for it: where a header names the reply's topic, the reply's channel names none."""
    text = json.dumps(DOCUMENT)
    for part in text.split('{"$ref": "')[1:]:
        assert resolved({"$ref": part.partition('"')[0]})

    dynamic = [operation for operation in OPERATIONS.values() if "address" in operation.get("reply", {})]
    assert len(dynamic) == 3
    assert {resolved(operation["reply"]["channel"])["address"] for operation in dynamic} == {None}


def test_every_message_is_sent_or_received_by_an_operation() -> None:
    """No message stands in a channel without anybody who handles it."""
    handled = [
        reference["$ref"].rpartition("/")[2]
        for operation in OPERATIONS.values()
        for reference in operation["messages"] + operation.get("reply", {}).get("messages", [])
    ]

    assert set(handled) == set(MESSAGES)


def test_a_name_means_one_thing() -> None:
    """Two messages may share a part of the same name, but not give the name to different things."""
    text, number = ("Part", {"type": "string"}), ("Part", {"type": "number"})

    assert components([text, text]) == {"Part": {"type": "string"}}
    with pytest.raises(LearnerError, match="differ on what Part is"):
        components([text, number])


@pytest.mark.parametrize("name", schemas())
def test_payload_is_the_messages_json_schema(name: str) -> None:
    """The component and the file in schemas/ are the same schema, in both dialects of JSON Schema."""
    component = DOCUMENT["components"]["schemas"][name]
    schema = schemas()[name]
    inner = schema.get("$defs", {})
    text = json.dumps(component).replace("#/components/schemas/", "#/$defs/")

    assert {**json.loads(text), **({"$defs": inner} if inner else {})} == {
        key: value for key, value in schema.items() if key not in {"$schema", "$id"}
    }
    Draft7Validator.check_schema(component)
    Draft202012Validator.check_schema(component)


@pytest.mark.parametrize(
    ("convention", "request_headers"),
    [
        ("plain", [("correlation_id", b"c"), ("reply_to", b"elsewhere"), ("reply_partition", b"3")]),
        (
            "spring",
            [
                ("kafka_correlationId", b"\x00\xff"),
                ("kafka_replyTopic", b"elsewhere"),
                ("kafka_replyPartition", struct.pack(">i", 3)),
            ],
        ),
        (
            "smallrye",
            [
                ("REPLY_CORRELATION_ID", b"c"),
                ("REPLY_TOPIC", b"elsewhere"),
                ("REPLY_PARTITION", struct.pack(">i", 3)),
            ],
        ),
    ],
)
def test_a_conventions_headers_are_those_that_are_read_and_written(
    convention: HeaderConvention, request_headers: Headers
) -> None:
    """A request as the document says is understood, and its replies carry just the headers it says."""
    request = MESSAGES[f"suggest-bid-request.{convention}"]
    address = reply_address(request_headers, NAMES.replies)
    unnamed = reply_address([(name, b"1") for name, _ in request_headers[1:]], NAMES.replies)
    error = ReplyError(code="INTERNAL", message="a fault")

    assert (address.convention, address.topic, address.partition) == (convention, "elsewhere", 3)
    assert sorted(request["headers"]["properties"]) == sorted(
        [*names(request_headers), "deadline", "authorization", *TRACE_HEADERS]
    )
    assert request["correlationId"] == {"location": f"$message.header#/{request_headers[0][0]}"}
    assert OPERATIONS[f"answer_{convention}"]["reply"]["address"] == {
        "location": f"$message.header#/{request_headers[1][0]}"
    }
    assert request["x-reply-partition"] == f"$message.header#/{request_headers[2][0]}"
    for kind, failure in (("reply", None), ("error", error)):
        every, required = names_and_required(f"suggest-bid-{kind}.{convention}")
        assert every == sorted([*names(reply_headers(address, error=failure)), *TRACE_HEADERS])
        assert required == names(reply_headers(unnamed, error=failure))


def test_dead_letter_has_the_documents_headers() -> None:
    """What a dead letter carries besides the record's own headers, cut or whole: the document knows."""
    error = RecordError("invalid", "no")
    whole = dead_letter(Lying(), ELSEWHERE, error)
    truncated = dead_letter(Lying(), ELSEWHERE, error, truncate=True)

    assert names_and_required("dead-letter") == (names(truncated.headers), names(whole.headers))


def test_moved_records_have_the_documents_headers() -> None:
    """What a moved event and a moved request carry besides their own headers is what the document says."""
    event = moved(Lying(), NAMES.rerouted, 1, "bid-placed")

    assert names_and_required("bid-placed.moved") == (names(event.headers), names(event.headers))
    hop = MESSAGES["bid-placed.moved"]["headers"]["properties"][HOP_HEADER]
    assert hop["const"].encode() == dict(event.headers)[HOP_HEADER]
    moved_request = sorted([HOP_HEADER, DEADLINE_HEADER])
    assert names_and_required("suggest-bid-request.moved") == (moved_request, moved_request)


def test_metrics_record_has_the_documents_header() -> None:
    """The one header of a metrics record is the one that the shard writes."""
    assert names_and_required("agent-metrics") == ([OWNER_HEADER], [])


def test_document_lists_every_reason_and_code() -> None:
    """A reason that the code gives to a dead letter is in the document, and no other; codes, too."""
    reasons = {*constructed("RecordError"), "invalid", "not-json"}  # the two of the codec are computed
    reasons -= {"truncated", "not-an-event"}  # why a letter stays one, never written in one
    assert set(DOCUMENT["x-dead-letter-reasons"]) == reasons
    codes = {"INVALID_REQUEST", "RESTORING", "OVERLOADED", "INTERNAL", "UNAUTHENTICATED", "FORBIDDEN"}
    assert set(DOCUMENT["x-error-codes"]) == codes
    assert set(ERROR_CODES) == set(DOCUMENT["x-error-codes"])


def test_page_shows_every_topic_message_field_and_header() -> None:
    """Nothing of the document is left out of the page, and its tables are even."""
    text = page(DOCUMENT)
    fields = {
        name for schema in DOCUMENT["components"]["schemas"].values() for name in schema.get("properties", {})
    }
    headers = {
        name for message in MESSAGES.values() for name in message.get("headers", {}).get("properties", {})
    }

    assert [topic for topic in NAMES.all if f"| `{topic}` |" not in text] == []
    assert [name for name in MESSAGES if f"### {name}\n" not in text and f"# {name}\n" not in text] == []
    assert [name for name in headers if f"| `{name}` |" not in text] == []
    assert [name for name in fields if f"{name}` |" not in text] == []
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count(" | ") for line in table}) == 1 for table in tables)


def test_examples_are_what_the_learner_says() -> None:
    """The example's reply is the strategy's answer to the example's request; the error is the real one."""
    agent_id = AgentId("echo")
    row = AgentRow(Metrics(10, 9, 9, 0, 9, 8550), outcome_offset=1234, as_of_ms=1_769_860_800_000)
    agent = Agent(agent_id, row, {"translate": Tally(9, 0)})
    request = EXAMPLES["suggest-bid-request"]
    assert isinstance(request, SuggestBidRequest)
    refusal = restoring()

    reply = Advise([CLASSIC]).answer(request_of(request), agent)

    assert example_of("suggest-bid-reply") == json.loads(encode_reply(reply))
    assert example_of("agent-metrics") == json.loads(encode_metrics(agent.record()))
    assert example_of("suggest-bid-error")["error"] == {
        "code": refusal.code,
        "message": str(refusal),
        "retry_after_ms": refusal.retry_after_ms,
    }


def test_examples_are_accepted() -> None:
    """The events and the request of the examples are read back as they are."""
    for kind in get_args(EventKind):
        event = EXAMPLES[kind]
        assert isinstance(event, BidPlaced | AuctionClosed | TaskFinished)
        assert decode_event(kind, json.dumps(example_of(kind)).encode()) == event_of(event)
    request = EXAMPLES["suggest-bid-request"]
    assert isinstance(request, SuggestBidRequest)
    assert decode_request(json.dumps(example_of("suggest-bid-request")).encode()) == request_of(request)


def test_asyncapis_own_schema_accepts_the_document_and_refuses_a_broken_one() -> None:
    """The schema that `make check-asyncapi` asks can tell a valid document from an invalid one."""
    judge = Draft7Validator(json.loads(ASYNCAPI_SCHEMA.read_text(encoding="utf-8")))
    broken = json.loads(json.dumps(DOCUMENT))
    broken["operations"]["read_bid_placed"]["action"] = "take"

    assert judge.is_valid(DOCUMENT)
    assert not judge.is_valid(broken)
