"""What a new version of the interface breaks for users of an older one, and which version may do so.

A breaking change needs a new major version; while the major is 0, a new minor one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from learner_worker.errors import LearnerError
from learner_worker.interface.compatibility import Comparison, Difference

Part = Mapping[str, Any]
_LEARNER: Final = "the learner"
_PARTITIONED_BY: Final = "x-partitioned-by"
_REPLY_TOPICS: Final = "x-reply-topics"
_NO_HEADERS: Final[Part] = {"type": "object"}
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class Version(NamedTuple):
    """A version as three numbers; what follows them does not matter here."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> "Version":
        """The version in a text such as 0.1.0 or 1.2.3rc1.

        Raises:
            LearnerError: it does not start with three numbers.
        """
        match = _VERSION.match(text)
        if match is None:
            raise LearnerError(f"{text!r} is no version: it has three numbers, as 0.1.0")
        return cls(*map(int, match.groups()))

    def may_break(self, released: "Version") -> bool:
        """Whether this version may break what the released one promised."""
        return self >= released.next_breaking()

    def next_breaking(self) -> "Version":
        """The first version after this one that may break its promises."""
        return Version(0, self.minor + 1, 0) if self.major == 0 else Version(self.major + 1, 0, 0)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def breaking_changes(released: Part, current: Part) -> list[str]:
    """What in the current document breaks users of the released one: a sentence for each change.

    What only the learner itself reads and writes is left out.

    Raises:
        LearnerError: a schema uses a word of JSON Schema that the comparison does not know.
    """
    found = [
        *_of_channels(released, current),
        *_of_replies(released, current),
        *_of_messages(released, current),
    ]
    return list(dict.fromkeys(found))


def _of_channels(released: Part, current: Part) -> Iterator[str]:
    for name, was in released["channels"].items():
        others = _named(_others(was))
        now = current["channels"].get(name)
        if not others:
            continue
        if now is None:
            yield f"topic {was['address'] or name} is gone: {others} that use it break; keep it"
        else:
            sentences = [*_of_topic(was, now), *_of_carried(was, now, _parts(released), _parts(current))]
            yield from (f"topic {was['address'] or name}: {sentence}" for sentence in sentences)


def _of_topic(was: Part, now: Part) -> Iterator[str]:
    others = _named(_others(was))
    for what, old, new in _promises(was, now):
        if new != old:
            yield f"{what} is {new} now, {old} before: {others} that rely on it break; keep it"
    for pattern in was.get(_REPLY_TOPICS, ()):
        if pattern not in now.get(_REPLY_TOPICS, ()):
            yield f"replies to {pattern} are refused now: {others} that ask for them break; allow it still"


def _of_carried(was: Part, now: Part, old_messages: Part, new_messages: Part) -> Iterator[str]:
    """Messages that are gone, and new ones that others would read without having asked for them."""
    others = _named(_others(was))
    for name in was["messages"]:
        if name not in now["messages"] and not _internal(old_messages[name]):
            yield f"{name} is no longer carried: {others} that use it break; keep it"
    if _LEARNER in was["x-read-by"] or "bidding agents" in was["x-read-by"]:
        return
    for name in now["messages"]:
        if name not in was["messages"] and not _internal(new_messages[name]):
            yield f"it may now carry {name}: {others} do not expect it; give it a topic of its own"


def _promises(was: Part, now: Part) -> Iterator[tuple[str, object, object]]:
    """What others rely on in a topic, with its old and its new value."""
    yield "its name", was["address"], now["address"]
    yield "what names the partition", was[_PARTITIONED_BY], now[_PARTITIONED_BY]
    yield "cleanup.policy", _policy(was), _policy(now)


def _of_replies(released: Part, current: Part) -> Iterator[str]:
    """Requests that are no longer answered, or answered elsewhere or with something else."""
    for name, was in released["operations"].items():
        if "reply" not in was:
            continue
        now = current["operations"].get(name, {})
        if "reply" not in now:
            yield f"operation {name} replies no more: those who ask wait in vain; keep it"
            continue
        if _address(now["reply"]) != _address(was["reply"]):
            yield (
                f"operation {name} replies to {_address(now['reply'])} now, {_address(was['reply'])} before: "
                "those who ask wait in vain; keep it"
            )
        for message in _names(now["reply"]["messages"]) - _names(was["reply"]["messages"]):
            yield (
                f"operation {name} may now reply {message}: those who ask do not expect it; "
                "say it in a field of the reply"
            )


def _of_messages(released: Part, current: Part) -> Iterator[str]:
    for name, was in _parts(released).items():
        now = _parts(current).get(name)
        if _internal(was) or now is None:  # a message that is gone is gone from its channel
            continue
        if (was["x-written-by"], was["x-read-by"]) != (now["x-written-by"], now["x-read-by"]):
            yield (
                f"{name} is now from {now['x-written-by']} to {now['x-read-by']}, "
                f"before from {was['x-written-by']} to {was['x-read-by']}: both break; keep it"
            )
        for word in ("contentType", "correlationId", "x-reply-partition"):
            if was.get(word) != now.get(word):
                yield f"{name}: {word} is {_said(now, word)} now, {_said(was, word)} before; keep it"
        yield from _of_message(name, was, now, _comparison(was, released, current))


def _comparison(message: Part, released: Part, current: Part) -> Comparison:
    return Comparison(
        released,
        current,
        "readers" if message["x-written-by"] == _LEARNER else "writers",
        writers=message["x-written-by"],
        readers=_named([message["x-read-by"]]),
    )


def _of_message(name: str, was: Part, now: Part, comparison: Comparison) -> Iterator[str]:
    """The value, by the name of its schema, which several messages may share; then its headers and key."""
    payload = _last(was["payload"]) if was["payload"] else name
    for difference in comparison.differences(was["payload"], now["payload"]):
        yield _sentence(payload, difference)
    headers = was.get("headers", _NO_HEADERS), now.get("headers", _NO_HEADERS)
    keys = _key(was), _key(now)
    for difference in [*comparison.differences(*headers, "header"), *comparison.differences(*keys, "key")]:
        yield _sentence(name, difference)


def _sentence(message: str, difference: Difference) -> str:
    place = f"{difference.path} " if difference.path else "the value "
    return f"{message}: {place}{difference.change}: {difference.broken}; {difference.instead}"


def _said(message: Part, word: str) -> str:
    value = message.get(word, "none")
    return str(value["location"] if isinstance(value, dict) else value)


def _parts(document: Part) -> Part:
    messages: Part = document["components"]["messages"]
    return messages


def _internal(part: Part) -> bool:
    return {part["x-written-by"], part["x-read-by"]} == {_LEARNER}


def _others(channel: Part) -> list[str]:
    """Who besides the learner uses the channel."""
    parties = dict.fromkeys([*channel["x-written-by"], *channel["x-read-by"]])
    return [party for party in parties if party != _LEARNER]


def _named(parties: Iterable[str]) -> str:
    return " and ".join("readers" if party == "anyone" else party for party in parties)


def _policy(channel: Part) -> str:
    configuration = channel.get("bindings", {}).get("kafka", {}).get("topicConfiguration", {})
    return "+".join(configuration.get("cleanup.policy", ["delete"]))


def _address(reply: Part) -> str:
    location: str = reply.get("address", {}).get("location", reply["channel"]["$ref"])
    return location.rpartition("/")[2]


def _names(references: Iterable[Part]) -> set[str]:
    return set(map(_last, references))


def _last(reference: Part) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _key(message: Part) -> Part:
    key: Part = message["bindings"]["kafka"]["key"]
    return key
