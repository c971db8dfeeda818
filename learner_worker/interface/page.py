"""The AsyncAPI document as a page of Markdown, for people."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

Part = Mapping[str, Any]
_REFERENCE: Final = "#/components/schemas/"
_NOTICE: Final = "<!-- Written by `learner-worker schemas export` from the code: do not edit. -->"
_SEE_ALSO: Final = (
    "The same for tools: [asyncapi.json](../schemas/asyncapi.json) and the JSON Schemas beside it. "
    "What the messages mean: [contract.md](contract.md)."
)


def page(document: Part) -> str:
    """The whole interface on one page."""
    blocks = [
        _NOTICE,
        f"# Every message of {document['info']['title']} {document['info']['version']}",
        document["info"]["description"],
        _SEE_ALSO,
        *_topics(document),
        *_asking(document),
        *_messages(document),
        *_meanings("Codes of error replies", "code", document["x-error-codes"]),
        *_meanings("Reasons of dead letters", "reason", document["x-dead-letter-reasons"]),
    ]
    return "\n\n".join(blocks) + "\n"


def _topics(document: Part) -> Iterator[str]:
    yield "## Topics"
    yield _table(
        ("topic", "messages", "written by", "read by", "partition", "settings"),
        [_topic(channel) for channel in document["channels"].values()],
    )
    named = next(channel for channel in document["channels"].values() if channel["address"] is None)
    yield f"Topics that a request may name, by default: {_codes(named['x-reply-topics'])} (`*`: any ending)."


def _topic(channel: Part) -> tuple[str, ...]:
    messages = dict.fromkeys(name.partition(".")[0] for name in channel["messages"])
    kept = channel.get("bindings", {}).get("kafka", {}).get("topicConfiguration", {})
    return (
        f"`{channel['address']}`" if channel["address"] else "named by the request",
        ", ".join(_link(name) for name in messages),
        ", ".join(channel["x-written-by"]),
        ", ".join(channel["x-read-by"]),
        ("sharded by " if channel["x-sharded"] else "by ") + channel["x-partitioned-by"],
        "<br>".join(f"`{name}={_setting(value)}`" for name, value in kept.items()),
    )


def _setting(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _asking(document: Part) -> Iterator[str]:
    yield "## Requests and their replies"
    rows = []
    for operation in document["operations"].values():
        address = operation.get("reply", {}).get("address")
        if address is not None:
            request = document["components"]["messages"][_last(operation["messages"][0])]
            replies = [_last(reply) for reply in operation["reply"]["messages"]]
            correlation = _header(request["correlationId"]["location"])
            rows.append(
                (
                    _code(request["name"]),
                    _code(correlation),
                    _code(_header(address["location"])),
                    _code(_header(request["x-reply-partition"])),
                    _codes(replies),
                )
            )
    yield _table(("request", "correlation id", "reply topic", "reply partition", "replies"), rows)
    default = document["channels"]["replies"]["address"]
    yield f"A request without a reply topic is answered in {_code(default)}, by its own convention."


def _messages(document: Part) -> Iterator[str]:
    yield "## Messages"
    comments = [schema.get("$comment") for schema in document["components"]["schemas"].values()]
    yield from dict.fromkeys(filter(None, comments))
    messages = document["components"]["messages"].values()
    ordered = sorted(messages, key=lambda message: list(_subjects(document)).index(_subject(message)))
    for subject, group in groupby(ordered, key=_subject):
        yield f"### {subject}"
        yield from _group(document, subject, list(group))


def _group(document: Part, subject: str, messages: Sequence[Part]) -> Iterator[str]:
    """The messages that share a value: it first, then what each puts around it."""
    schema = document["components"]["schemas"].get(subject)
    if schema is not None:
        yield schema["description"]
        yield _table(("field", "type", "required", ""), list(_fields(document, schema)))
    for example in messages[0].get("examples", ()):
        yield f"```json\n{json.dumps(example['payload'], indent=2, ensure_ascii=False)}\n```"
    for message in messages:
        if message["name"] != subject:
            yield f"#### {message['name']}"
        yield from _one_line(message.get("summary"))
        yield f"{_way(message)}. Key: {_key(message)}"
        if "headers" in message:
            yield _table(("header", "type", "required", ""), list(_fields(document, message["headers"])))


def _fields(document: Part, schema: Part, path: str = "") -> Iterator[tuple[str, ...]]:
    """A row for every field, those of inner objects after the object's own."""
    for name, field in schema["properties"].items():
        required = "yes" if name in schema.get("required", ()) else ""
        words = ". ".join(_words(field))
        yield _code(path + name), _type(document, field), required, words
        inner = _object_in(document, field)
        if inner is not None:
            yield from _fields(document, inner, f"{path}{name}{'[]' if 'items' in field else ''}.")


def _words(field: Part) -> Iterator[str]:
    """The field's description, and what its values are limited to."""
    for branch in _branches(field):
        if "description" in branch:
            yield branch["description"].rstrip(".")
        yield from _limits(branch)


def _branches(field: Part) -> Iterator[Part]:
    yield field
    for branch in (*field.get("anyOf", ()), *([field["items"]] if "items" in field else [])):
        yield from _branches(branch)


def _limits(branch: Part) -> Iterator[str]:
    unit = "bytes" if branch.get("format") == "binary" else "characters"
    if "maxLength" in branch:
        yield f"{branch.get('minLength', 0)} to {branch['maxLength']} {unit}"
    if "maximum" in branch:
        yield (
            f"{branch['minimum']} to {branch['maximum']}"
            if "minimum" in branch
            else f"At most {branch['maximum']}"
        )
    if "pattern" in branch:
        yield f"Matches {_code(branch['pattern'])}"
    if "not" in branch:
        yield f"No {_code(branch['not']['pattern'])}"
    if "const" in branch:
        yield f"Always {_code(branch['const'])}"


def _type(document: Part, field: Part) -> str:
    if "anyOf" in field:
        return " or ".join(_type(document, branch) for branch in field["anyOf"])
    if "$ref" in field:
        return _type(document, _resolved(document, field))
    if "items" in field:
        return f"array of {_type(document, field['items'])}"
    if field.get("format") == "date-time":
        return "RFC 3339 time"
    return "bytes" if field.get("format") == "binary" else str(field.get("type", "any"))


def _object_in(document: Part, field: Part) -> Part | None:
    resolved = (_resolved(document, branch) for branch in _branches(field))
    return next((branch for branch in resolved if "properties" in branch), None)


def _resolved(document: Part, schema: Part) -> Part:
    if "$ref" not in schema:
        return schema
    resolved: Part = document["components"]["schemas"][schema["$ref"].removeprefix(_REFERENCE)]
    return resolved


def _subjects(document: Part) -> dict[str, None]:
    return dict.fromkeys(_subject(message) for message in document["components"]["messages"].values())


def _subject(message: Part) -> str:
    """What the message's value is; a message of bytes is a subject of its own."""
    name: str = message["name"]
    return _last(message["payload"]) if message["payload"] else name


def _way(message: Part) -> str:
    writer, reader = message["x-written-by"], message["x-read-by"]
    return "Among learners only" if writer == reader else f"From {writer} to {reader}"


def _key(message: Part) -> str:
    key: str = message["bindings"]["kafka"]["key"].get("description", "none")
    return key[0].lower() + key[1:]


def _meanings(heading: str, column: str, meanings: Mapping[str, str]) -> Iterator[str]:
    yield f"## {heading}"
    yield _table((column, "meaning"), [(_code(name), meaning) for name, meaning in meanings.items()])


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _one_line(text: str | None) -> Iterator[str]:
    if text:
        yield text


def _last(reference: Part) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _header(location: str) -> str:
    return location.rpartition("/")[2]


def _link(subject: str) -> str:
    return f"[{subject}](#{subject})"


def _code(text: str) -> str:
    return f"`{text}`"


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(map(_code, texts))
