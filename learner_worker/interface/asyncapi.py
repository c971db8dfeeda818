"""The interface as an AsyncAPI 3 document, made from the table of channels and the messages' JSON Schemas."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from learner_worker.contract.suggestions import ERROR_CODES
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.errors import LearnerError
from learner_worker.interface.channels import (
    CHANNELS,
    OPERATIONS,
    Channel,
    ChannelMessage,
    Operation,
    ReplyChannel,
)
from learner_worker.interface.examples import example_of
from learner_worker.interface.headers import DEAD_LETTER_REASONS, schema_of
from learner_worker.interface.schemas import schemas

Document = dict[str, Any]

_BINDING: Final = {"bindingVersion": "0.5.0"}
_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"
_DESCRIPTION: Final = (
    "The Kafka messages between swarm services, bidding agents and the learner. Operations are seen from "
    "the learner's side: it receives what others write and sends what others read. The topic names are the "
    "defaults; settings change them and add a prefix. Values are JSON in UTF-8; the frame of a schema "
    "registry's JSON serializer (a zero byte and a 4-byte id) is skipped. Unknown fields and headers are "
    "ignored, so messages may gain some. Topics with `x-sharded` have the same number of partitions, which "
    "only `learner-worker reshard` changes; a record belongs on the partition that Kafka's murmur2 gives "
    "for the UTF-8 of the id in its body, and is moved there once if it is on another one."
)


def asyncapi(version: str) -> Document:
    """The document of this version of the interface."""
    names = Topics(advice_log=True).named()
    messages = {message.name: message for channel in CHANNELS for message in channel.messages}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:learner-worker",
        "info": {
            "title": "learner-worker",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": _JSON,
        "channels": {channel.topic: _channel(channel, names) for channel in CHANNELS},
        "operations": {operation.name: _operation(operation) for operation in OPERATIONS},
        "components": {
            "messages": {name: _message(message) for name, message in messages.items()},
            "schemas": components(_named_schemas()),
        },
        "x-error-codes": dict(ERROR_CODES),
        "x-dead-letter-reasons": dict(DEAD_LETTER_REASONS),
    }


def _channel(channel: Channel, names: TopicNames) -> Document:
    topic = getattr(names, channel.topic, None)
    return {
        "address": topic,
        "summary": channel.summary,
        "messages": {message.name: _ref("components/messages", message.name) for message in channel.messages},
        **(
            {"x-reply-topics": list(names.reply_patterns)}
            if topic is None
            else {"bindings": {"kafka": _kept(names.configuration(topic))}}
        ),
        "x-written-by": _distinct(message.writer for message in channel.messages),
        "x-read-by": _distinct(message.reader for message in channel.messages),
        "x-partitioned-by": channel.partitioned_by,
        "x-sharded": topic in names.sharded,
    }


def _kept(configuration: Mapping[str, str]) -> Document:
    settings = {name: _setting(name, value) for name, value in configuration.items()}
    return ({"topicConfiguration": settings} if settings else {}) | _BINDING


def _setting(name: str, value: str) -> object:
    if name == "cleanup.policy":
        return [value]
    return int(value) if value.isdigit() else value


def _operation(operation: Operation) -> Document:
    return {
        "action": operation.action,
        "channel": _ref("channels", operation.channel),
        "summary": operation.summary,
        "messages": _on_channel(operation.channel, operation.messages),
        **({} if operation.reply is None else {"reply": _reply(operation.reply)}),
    }


def _reply(reply: ReplyChannel) -> Document:
    address = {} if reply.address_header is None else {"address": {"location": _header(reply.address_header)}}
    return {
        **address,
        "channel": _ref("channels", reply.channel),
        "messages": _on_channel(reply.channel, reply.messages),
    }


def _message(message: ChannelMessage) -> Document:
    example = None if message.payload is None else example_of(message.payload)
    return {
        "name": message.name,
        **({"summary": message.summary} if message.summary else {}),
        "contentType": _BYTES if message.payload is None else _JSON,
        **({"headers": schema_of(message.headers)} if message.headers else {}),
        "payload": {} if message.payload is None else _ref("components/schemas", message.payload),
        **(
            {}
            if message.correlation_id is None
            else {"correlationId": {"location": _header(message.correlation_id)}}
        ),
        **({} if example is None else {"examples": [{"payload": example}]}),
        "bindings": {"kafka": {"key": dict(message.key), **_BINDING}},
        "x-written-by": message.writer,
        "x-read-by": message.reader,
        **(
            {} if message.reply_partition is None else {"x-reply-partition": _header(message.reply_partition)}
        ),
    }


def components(named: Iterable[tuple[str, Document]]) -> dict[str, Document]:
    """Every schema by its name, once.

    Raises:
        LearnerError: two schemas give one name to different things.
    """
    found: dict[str, Document] = {}
    for name, schema in named:
        if found.setdefault(name, schema) != schema:
            raise LearnerError(f"two schemas differ on what {name} is: rename one of the classes")
    return found


def _named_schemas() -> Iterator[tuple[str, Document]]:
    """Every schema and what it refers to, in the words that JSON Schema 2020-12 and AsyncAPI share."""
    for name, schema in schemas().items():
        body = {key: value for key, value in schema.items() if key not in {"$schema", "$id", "$defs"}}
        yield name, _relocated(body)
        yield from ((inner, _relocated(value)) for inner, value in schema.get("$defs", {}).items())


def _relocated(schema: Any) -> Any:
    """The schema with its references into the document's components."""
    if isinstance(schema, list):
        return [_relocated(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _relocated(value)
        for key, value in schema.items()
    }


def _on_channel(channel: str, messages: Sequence[ChannelMessage]) -> list[Document]:
    return [_ref(f"channels/{channel}/messages", message.name) for message in messages]


def _ref(place: str, name: str) -> Document:
    return {"$ref": f"#/{place}/{name}"}


def _header(name: str) -> str:
    return f"$message.header#/{name}"


def _distinct(parties: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(parties))
