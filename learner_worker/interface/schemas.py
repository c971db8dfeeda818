"""Every message as JSON Schema (2020-12), for programs in any language.

Events and the request: what the learner accepts. Replies and the learner's own records: what it writes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from learner_worker.contract.advice import ADVICE_VERSION, AdviceRecord
from learner_worker.contract.events import AuctionClosed, BidPlaced, TaskFinished
from learner_worker.contract.facts import FACT_VERSION, MARKER_VERSION, Fact, ForgetMarker
from learner_worker.contract.suggestions import (
    AgentMetricsRecord,
    SuggestBidError,
    SuggestBidReply,
    SuggestBidRequest,
)
from learner_worker.contract.topology import TOPOLOGY_VERSION, Topology

_JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
_CONTRACT_VERSION = 1  # raised with an incompatible change of the contract
_ACCEPTED: Mapping[str, type[BaseModel]] = {
    "bid-placed": BidPlaced,
    "auction-closed": AuctionClosed,
    "task-finished": TaskFinished,
    "suggest-bid-request": SuggestBidRequest,
}
_WRITTEN: Mapping[str, type[BaseModel]] = {
    "suggest-bid-reply": SuggestBidReply,
    "suggest-bid-error": SuggestBidError,
    "agent-metrics": AgentMetricsRecord,
}
_FACT = "outcome-fact"
_MARKER = "forget-marker"
_TOPOLOGY = "topology"
_ADVICE = "advice"
_BEYOND_SCHEMA = (
    "What JSON Schema cannot say: an integer is written without a fraction or an exponent (1000.0 and 1e3 "
    "are refused; to JSON Schema they are the integer 1000, because it sees values, not how they are "
    "written); a time is "
    "RFC 3339's grammar exactly, of the years 1970 to 9998; text holds no lone surrogates; a record is "
    "at most 1 MiB. Unknown fields are ignored."
)
_NONE_OF = re.compile(r"\^\[\^(.+)\]\*\$")


def schemas() -> dict[str, JsonSchemaValue]:
    """The JSON Schema of every message, by the message's name."""
    accepted = {
        name: _document(name, _of_model(model, "validation") | {"$comment": _BEYOND_SCHEMA})
        for name, model in _ACCEPTED.items()
    }
    written = {name: _document(name, _of_model(model, "serialization")) for name, model in _WRITTEN.items()}
    own = {
        _FACT: _document(_FACT, _of_struct(Fact, FACT_VERSION), FACT_VERSION),
        _MARKER: _document(_MARKER, _of_struct(ForgetMarker, MARKER_VERSION), MARKER_VERSION),
        _ADVICE: _document(_ADVICE, _of_struct(AdviceRecord, ADVICE_VERSION), ADVICE_VERSION),
        _TOPOLOGY: _document(_TOPOLOGY, _of_struct(Topology, TOPOLOGY_VERSION), TOPOLOGY_VERSION),
    }
    return {**accepted, **written, **own}


def schema_text(schema: JsonSchemaValue) -> str:
    """The schema as the text of its file: equal schemas have equal texts."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, without a title on every field."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        """Never: a title would only repeat the field's name."""
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A field with a default: in what the learner writes it is left out when unset, never null."""
        if self.mode == "validation":
            return super().default_schema(schema)
        inner = schema["schema"]
        return self.generate_inner(inner["schema"] if inner["type"] == "nullable" else inner)

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        """Text; "only characters outside a set" is said as "none of the set".

        The two mean the same, but Python's `$` also matches before a last line feed.
        """
        text = super().str_schema(schema)
        match = _NONE_OF.fullmatch(text.get("pattern", ""))
        if match is not None:
            del text["pattern"]
            text["not"] = {"pattern": f"[{match[1]}]"}
        return text


def _of_model(model: type[BaseModel], mode: JsonSchemaMode) -> JsonSchemaValue:
    return model.model_json_schema(schema_generator=_Generator, mode=mode)


def _of_struct(struct: type[msgspec.Struct], version: int) -> JsonSchemaValue:
    definitions = msgspec.json.schema(struct)["$defs"]
    schema: JsonSchemaValue = definitions.pop(struct.__name__)
    schema["properties"]["v"]["maximum"] = version
    return {**schema, "$defs": definitions} if definitions else schema


def _document(name: str, schema: JsonSchemaValue, version: int = _CONTRACT_VERSION) -> JsonSchemaValue:
    heading = {"$schema": _JSON_SCHEMA, "$id": f"urn:learner-worker:{name}:v{version}"}
    first = ("title", "description", "$comment", "type", "properties", "required")
    ordered = {key: schema[key] for key in first if key in schema}
    return {**heading, **ordered, **schema}
