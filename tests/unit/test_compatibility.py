"""Which changes of the interface break others, found by editing a copy of the real document."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import learner_worker
from learner_worker.cli import cli
from learner_worker.commands.schemas import compatibility, release
from learner_worker.errors import ConfigurationError, LearnerError
from learner_worker.interface.asyncapi import asyncapi
from learner_worker.interface.changes import Version, breaking_changes

COMMITTED = Path(__file__).parents[2] / "schemas"
RELEASED = asyncapi("0.1.0")
OTHERWISE = ", or raise the version to 0.2.0 and release the schemas again"

Document = dict[str, Any]
Edit = Callable[[Document], object]


def schema(name: str) -> Callable[[Document], Any]:
    """Where a schema of that name is in a document."""
    return lambda document: document["components"]["schemas"][name]


def field(name: str, path: str) -> Callable[[Document], Any]:
    """Where a field of a schema is."""
    return lambda document: schema(name)(document)["properties"][path]


def message(name: str) -> Callable[[Document], Any]:
    """Where a message is."""
    return lambda document: document["components"]["messages"][name]


def channel(name: str) -> Callable[[Document], Any]:
    """Where a channel is."""
    return lambda document: document["channels"][name]


def added(name: str, new: str, what: Document, *, required: bool = False) -> Edit:
    """A schema gets a field."""

    def edit(document: Document) -> None:
        schema(name)(document)["properties"][new] = what
        if required:
            schema(name)(document)["required"].append(new)

    return edit


def removed(name: str, old: str) -> Edit:
    """A schema loses a field."""

    def edit(document: Document) -> None:
        del schema(name)(document)["properties"][old]
        required = schema(name)(document)["required"]
        schema(name)(document)["required"] = [field for field in required if field != old]

    return edit


def optional(name: str, path: str) -> Edit:
    """A field is no longer required."""
    return lambda document: schema(name)(document)["required"].remove(path)


def required(name: str, path: str) -> Edit:
    """A field is required from now on."""
    return lambda document: schema(name)(document)["required"].append(path)


def limits(name: str, path: str, **words: object) -> Edit:
    """A field's words change."""
    return lambda document: field(name, path)(document).update(words)


def never_null(name: str, path: str) -> Edit:
    """A field can no longer be null."""
    return lambda document: field(name, path)(document)["anyOf"].pop()


def or_null(name: str, path: str) -> Edit:
    """A field can be null, too."""

    def edit(document: Document) -> None:
        properties = schema(name)(document)["properties"]
        properties[path] = {"anyOf": [properties[path], {"type": "null"}]}

    return edit


def included(items: Document) -> Edit:
    """What a request may include changes."""
    return lambda document: field("suggest-bid-request", "include")(document)["anyOf"][0].update(items=items)


def without_header(name: str, header: str) -> Edit:
    """A message loses a header."""

    def edit(document: Document) -> None:
        headers = message(name)(document)["headers"]
        del headers["properties"][header]
        headers["required"] = [known for known in headers.get("required", []) if known != header]

    return edit


def new_header(name: str, header: str, *, required: bool) -> Edit:
    """A message gets a header."""

    def edit(document: Document) -> None:
        headers = message(name)(document)["headers"]
        headers["properties"][header] = {"type": "string"}
        headers["required"] = [*headers.get("required", []), *([header] if required else [])]

    return edit


TEXT: Document = {"type": "string"}
COMPATIBLE: dict[str, Edit] = {
    "nothing": copy.copy,
    "words": lambda document: schema("bid-placed")(document).update(description="Other words."),
    "event: a new optional field": added("bid-placed", "region", {"anyOf": [TEXT, {"type": "null"}]}),
    "event: a field is no longer required": optional("bid-placed", "description"),
    "event: a field may be null": or_null("task-finished", "succeeded"),
    "event: longer text is taken": limits("bid-placed", "description", maxLength=20_000),
    "event: a pattern less": lambda document: field("bid-placed", "task_id")(document).pop("not"),
    "request: one more accepted value": included({"enum": ["learned_keywords", "alternatives", "history"]}),
    "request: a pattern instead of a value": included({"type": "string", "pattern": "^[a-z_]+$"}),
    "request: a value less forbidden": included({"type": "string", "not": {"pattern": "[A-Z]"}}),
    "request: a new optional header": new_header("suggest-bid-request.plain", "priority", required=False),
    "reply: a new field": added("suggest-bid-reply", "confidence", {"type": "number"}, required=True),
    "reply: an optional field is always there": required("suggest-bid-reply", "request_id"),
    "reply: a narrower number": limits("suggest-bid-reply", "suggested_bid_sats", minimum=1),
    "reply: never null again": never_null("suggest-bid-reply", "as_of"),
    "reply: a number is an integer": limits("agent-metrics", "win_rate", type="integer"),
    "reply: a new header": new_header("suggest-bid-reply.plain", "traceparent", required=True),
    "facts are internal": removed("outcome-fact", "agent_id"),
    "moved events are internal": without_header("bid-placed.moved", "learner-hop"),
    "the outcomes topic is internal": lambda document: channel("outcomes")(document).update(address="facts"),
    "retention is the operators'": lambda document: channel("replies")(document).pop("bindings"),
    "a new topic": lambda document: document["channels"].update(
        bids=channel("bid_placed")(copy.deepcopy(RELEASED))
    ),
    "one more reply topic": lambda document: channel("reply_address")(document)["x-reply-topics"].append("x"),
}
BREAKING: dict[str, tuple[Edit, str]] = {
    "request: a field becomes required": (
        required("suggest-bid-request", "deadline"),
        (
            "suggest-bid-request: deadline is now required: bidding agents that do not send it break; "
            "make it optional"
        ),
    ),
    "event: a new required field": (
        added("bid-placed", "region", TEXT, required=True),
        "bid-placed: region is now required: swarm services that do not send it break; make it optional",
    ),
    "event: shorter text": (
        limits("bid-placed", "description", maxLength=10_000),
        (
            "bid-placed: description has maxLength 10000 now, 16384 before: swarm services that send "
            "what was allowed break; keep the wider limit"
        ),
    ),
    "event: a higher minimum": (
        limits("bid-placed", "bid_sats", minimum=1),
        (
            "bid-placed: bid_sats has minimum 1 now, 0 before: swarm services that send what was "
            "allowed break; keep the wider limit"
        ),
    ),
    "event: a pattern more": (
        limits("bid-placed", "description", pattern="^[a-z]"),
        (
            "bid-placed: description has pattern ^[a-z] now, none before: swarm services that send "
            "what was allowed break; keep the wider limit"
        ),
    ),
    "event: another pattern": (
        limits("task-finished", "task_id", **{"not": {"pattern": "[ ]"}}),
        (
            "task-finished: task_id has not {'pattern': '[ ]'} now, {'pattern': "
            "'[\\\\u0000-\\\\u001f\\\\u007f-\\\\u009f]'} before: swarm services that send what was "
            "allowed break; keep the wider limit"
        ),
    ),
    "event: another type": (
        limits("task-finished", "succeeded", type="string"),
        (
            "task-finished: succeeded no longer takes boolean (only string): swarm services that send "
            "it break; take it still"
        ),
    ),
    "event: null is no longer taken": (
        never_null("auction-closed", "winner_agent_id"),
        (
            "auction-closed: winner_agent_id no longer takes null (only string): swarm services that "
            "send it break; take it still"
        ),
    ),
    "event: a number with few values": (
        lambda document: schema("bid-placed")(document)["properties"].update(bid_sats={"enum": [1, 2]}),
        (
            "bid-placed: bid_sats no longer takes integer (only 1, 2): swarm services that send it "
            "break; take it still"
        ),
    ),
    "event: a field is ignored": (
        removed("auction-closed", "closed_at"),
        "auction-closed: closed_at is no longer read: what swarm services say in it is ignored; keep it",
    ),
    "event: missing means something else": (
        limits("auction-closed", "description", default="none"),
        (
            "auction-closed: description means 'none' when it is missing, None before: swarm services "
            "that leave it out are understood otherwise; keep the default"
        ),
    ),
    "request: an accepted value goes": (
        included({"enum": ["alternatives", "history"]}),
        (
            "suggest-bid-request: include[] no longer takes 'learned_keywords' (only 'alternatives', "
            "'history'): bidding agents that send it break; take it still"
        ),
    ),
    "request: a pattern that the accepted value does not match": (
        included({"type": "string", "pattern": "^[A-Z]"}),
        (
            "suggest-bid-request: include[] has pattern ^[A-Z] now, none before: bidding agents that send "
            "what was allowed break; keep the wider limit"
        ),
    ),
    "request: a header becomes required": (
        new_header("suggest-bid-request.spring", "tenant", required=True),
        (
            "suggest-bid-request.spring: header.tenant is now required: bidding agents that do not "
            "send it break; make it optional"
        ),
    ),
    "request: a header is ignored": (
        without_header("suggest-bid-request.plain", "reply_to"),
        (
            "suggest-bid-request.plain: header.reply_to is no longer read: what bidding agents say in "
            "it is ignored; keep it"
        ),
    ),
    "request: the correlation id is elsewhere": (
        lambda document: message("suggest-bid-request.plain")(document).update(
            correlationId={"location": "$message.header#/id"}
        ),
        (
            "suggest-bid-request.plain: correlationId is $message.header#/id now, "
            "$message.header#/correlation_id before; keep it"
        ),
    ),
    "request: the reply goes elsewhere": (
        lambda document: document["operations"]["answer_plain"]["reply"]["address"].update(
            location="$message.header#/answer_to"
        ),
        (
            "operation answer_plain replies to answer_to now, reply_to before: those who ask wait in "
            "vain; keep it"
        ),
    ),
    "request: a convention goes": (
        lambda document: document["operations"].pop("answer_smallrye"),
        "operation answer_smallrye replies no more: those who ask wait in vain; keep it",
    ),
    "reply: another kind of reply": (
        lambda document: document["operations"]["answer_plain"]["reply"]["messages"].append(
            {"$ref": "#/channels/reply_address/messages/later"}
        ),
        (
            "operation answer_plain may now reply later: those who ask do not expect it; say it in a "
            "field of the reply"
        ),
    ),
    "reply: a field goes": (
        removed("suggest-bid-reply", "strategy"),
        "suggest-bid-reply: strategy is gone: bidding agents that use it break; keep it",
    ),
    "reply: an optional field goes": (
        removed("suggest-bid-reply", "learned_keywords"),
        "suggest-bid-reply: learned_keywords is gone: bidding agents that use it break; keep it",
    ),
    "reply: a map has other values": (
        limits("suggest-bid-reply", "alternatives", additionalProperties={"type": "string"}),
        (
            "suggest-bid-reply: alternatives.* may now be string (was object): bidding agents that do not "
            "expect it break; say it in a field of its own"
        ),
    ),
    "reply: a map may have any values": (
        limits("suggest-bid-reply", "alternatives", additionalProperties={}),
        (
            "suggest-bid-reply: alternatives.* may now be any (was object): bidding agents that do not "
            "expect it break; say it in a field of its own"
        ),
    ),
    "reply: a field may be missing": (
        optional("suggest-bid-reply", "factor"),
        "suggest-bid-reply: factor may now be missing: bidding agents that rely on it break; always send it",
    ),
    "reply: a field may be null": (
        or_null("suggest-bid-reply", "stale"),
        (
            "suggest-bid-reply: stale may now be null (was boolean): bidding agents that do not expect "
            "it break; say it in a field of its own"
        ),
    ),
    "reply: an integer may have a fraction": (
        limits("AgentMetrics", "total_bids", type="number"),
        (
            "suggest-bid-reply: metrics.total_bids may now be number (was integer): bidding agents "
            "that do not expect it break; say it in a field of its own"
        ),
    ),
    "reply: a wider limit": (
        limits("suggest-bid-reply", "suggested_bid_sats", minimum=-1),
        (
            "suggest-bid-reply: suggested_bid_sats has minimum -1 now, 0 before: bidding agents that "
            "rely on the limit break; keep the limit"
        ),
    ),
    "reply: a field of a field may be missing": (
        optional("Adjustment", "reason"),
        (
            "suggest-bid-reply: adjustments[].reason may now be missing: bidding agents that rely on "
            "it break; always send it"
        ),
    ),
    "error: its header goes": (
        without_header("suggest-bid-error.plain", "learner-error"),
        "suggest-bid-error.plain: header.learner-error is gone: bidding agents that use it break; keep it",
    ),
    "metrics: a field goes": (
        removed("agent-metrics", "outcome_offset"),
        "agent-metrics: outcome_offset is gone: readers that use it break; keep it",
    ),
    "metrics: another key": (
        lambda document: message("agent-metrics")(document)["bindings"]["kafka"].update(key={}),
        (
            "agent-metrics: key may now be any (was string): readers that do not expect it break; say "
            "it in a field of its own"
        ),
    ),
    "metrics: no longer compacted": (
        lambda document: channel("metrics")(document).pop("bindings"),
        (
            "topic learner-agent-metrics: cleanup.policy is delete now, compact before: readers that "
            "rely on it break; keep it"
        ),
    ),
    "metrics: something else in the topic": (
        lambda document: channel("metrics")(document)["messages"].update({"dead-letter": {}}),
        (
            "topic learner-agent-metrics: it may now carry dead-letter: readers do not expect it; give "
            "it a topic of its own"
        ),
    ),
    "dead letter: a header may be missing": (
        lambda document: message("dead-letter")(document)["headers"]["required"].remove("learner-reason"),
        (
            "dead-letter: header.learner-reason may now be missing: operators that rely on it break; "
            "always send it"
        ),
    ),
    "dead letter: it becomes JSON": (
        lambda document: message("dead-letter")(document).update(contentType="application/json"),
        "dead-letter: contentType is application/json now, application/octet-stream before; keep it",
    ),
    "a topic goes": (
        lambda document: document["channels"].pop("dead_letters"),
        "topic learner-dead-letters is gone: operators that use it break; keep it",
    ),
    "a topic is renamed": (
        lambda document: channel("bid_placed")(document).update(address="bids"),
        (
            "topic bid-placed: its name is bids now, bid-placed before: swarm services that rely on it "
            "break; keep it"
        ),
    ),
    "a topic is partitioned otherwise": (
        lambda document: channel("metrics")(document).update({"x-partitioned-by": "task_id"}),
        (
            "topic learner-agent-metrics: what names the partition is task_id now, agent_id before: "
            "readers that rely on it break; keep it"
        ),
    ),
    "a message goes": (
        lambda document: channel("requests")(document)["messages"].pop("suggest-bid-request.spring"),
        (
            "topic suggest-bid-requests: suggest-bid-request.spring is no longer carried: bidding "
            "agents that use it break; keep it"
        ),
    ),
    "a reply topic is refused": (
        lambda document: channel("reply_address")(document)["x-reply-topics"].pop(),
        (
            "topic reply_address: replies to suggest-bid-requests-replies are refused now: bidding "
            "agents that ask for them break; allow it still"
        ),
    ),
    "another writer": (
        lambda document: message("bid-placed")(document).update({"x-written-by": "bidding agents"}),
        (
            "bid-placed is now from bidding agents to the learner, before from swarm services to the "
            "learner: both break; keep it"
        ),
    ),
}


def edited(edit: Edit, version: str = "0.1.0") -> Document:
    document = copy.deepcopy(RELEASED)
    document["info"]["version"] = version
    edit(document)
    return document


def required_deadline(version: str) -> Document:
    return edited(BREAKING["request: a field becomes required"][0], version)


@pytest.mark.parametrize("edit", COMPATIBLE.values(), ids=COMPATIBLE)
def test_compatible_change(edit: Edit) -> None:
    """Nobody who holds on to the released interface notices."""
    assert breaking_changes(RELEASED, edited(edit)) == []


@pytest.mark.parametrize(("edit", "sentence"), BREAKING.values(), ids=BREAKING)
def test_breaking_change(edit: Edit, sentence: str) -> None:
    """The sentence says what changed, who breaks and what would not; there is no other sentence."""
    assert breaking_changes(RELEASED, edited(edit)) == [sentence]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"multipleOf": 10}, "multipleOf (of type integer) at bid_sats"),
        ({"oneOf": []}, "oneOf (of type integer) at bid_sats"),
        ({"type": "money"}, "type money at bid_sats"),
        ({"enum": [[1]], "minimum": 0}, "maximum (beside a fixed value) at bid_sats"),
        ({"maxLength": 3}, "maxLength (of type integer) at bid_sats"),
        ({"anyOf": []}, "maximum (beside anyOf) at bid_sats"),
    ],
)
def test_unknown_words_of_json_schema_are_refused(words: Document, problem: str) -> None:
    """A word that the comparison does not know is never taken for harmless."""
    with pytest.raises(LearnerError, match="does not know JSON Schema's") as raised:
        breaking_changes(RELEASED, edited(limits("bid-placed", "bid_sats", **words)))

    assert problem in str(raised.value)


def test_a_fixed_list_or_object_is_refused() -> None:
    """Only single values are compared: a list as a constant is not known."""
    with pytest.raises(LearnerError, match=r"fixed value \[1\] at include\[\]"):
        breaking_changes(RELEASED, edited(included({"const": [1]})))


@pytest.mark.parametrize(
    ("version", "released", "may"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.1.9", "0.1.0", False),
        ("0.2.0", "0.1.7", True),
        ("1.0.0", "0.1.0", True),
        ("1.1.0", "1.0.0", False),
        ("2.0.0", "1.9.3", True),
        ("2.0.0rc1", "1.9.3", True),
    ],
)
def test_which_version_may_break(version: str, released: str, *, may: bool) -> None:
    """A new major version may, and while the major is 0 a new minor one."""
    assert Version.parse(version).may_break(Version.parse(released)) == may


def test_a_text_that_is_no_version_is_refused() -> None:
    """A folder or a package whose version has not three numbers is named."""
    with pytest.raises(LearnerError, match=r"'1\.2' is no version"):
        Version.parse("1.2")


def test_nothing_breaks_the_committed_release() -> None:
    """The interface keeps what the newest release in schemas/released promised, or its version says so."""
    current = asyncapi(learner_worker.__version__)

    assert "no released interface" not in compatibility(COMMITTED, current)


def test_a_break_needs_the_version_that_allows_it(tmp_path: Path) -> None:
    """The same change fails in 0.1.1, with both ways out, and passes in 0.2.0, told all the same."""
    sentence = BREAKING["request: a field becomes required"][1]
    release(tmp_path, RELEASED)

    assert compatibility(tmp_path, asyncapi("0.1.1")) == "compatible with 0.1.0, the newest release"
    with pytest.raises(LearnerError) as raised:
        compatibility(tmp_path, required_deadline("0.1.1"))
    assert str(raised.value) == f"0.1.1 breaks what 0.1.0 promised:\n{sentence}{OTHERWISE}"
    assert (
        compatibility(tmp_path, required_deadline("0.2.0"))
        == f"0.2.0 may break what 0.1.0 promised, and does:\n{sentence}"
    )


def test_the_newest_release_is_what_counts(tmp_path: Path) -> None:
    """0.10.0 is newer than 0.9.0, what it promised binds the next one, and no version goes back."""
    release(tmp_path, asyncapi("0.9.0"))
    release(tmp_path, required_deadline("0.10.0"))

    assert compatibility(tmp_path, required_deadline("0.10.1")) == (
        "compatible with 0.10.0, the newest release"
    )
    with pytest.raises(LearnerError, match=r"this is version 0\.9\.1, but .* is newer"):
        compatibility(tmp_path, asyncapi("0.9.1"))


def test_a_release_never_changes(tmp_path: Path) -> None:
    """Releasing the same again changes nothing; another interface needs another version."""
    path = release(tmp_path, RELEASED)
    kept = path.read_bytes()

    assert release(tmp_path, RELEASED) == path
    with pytest.raises(LearnerError, match="a released interface never changes"):
        release(tmp_path, edited(COMPATIBLE["event: a new optional field"]))
    with pytest.raises(LearnerError, match=r"0\.1\.1 breaks what 0\.1\.0 promised"):
        release(tmp_path, required_deadline("0.1.1"))
    assert path.read_bytes() == kept
    assert [found.parent.name for found in tmp_path.rglob("asyncapi.json")] == ["0.1.0"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"info": {"version": "0.3.0"}}', '{"info": {"version": "0.1.0"}}']
)
def test_a_release_that_is_not_what_its_folder_says_is_refused(tmp_path: Path, text: str) -> None:
    """A file that was damaged or moved is named, never compared with."""
    path = release(tmp_path, RELEASED)
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigurationError, match=r"0\.1\.0.asyncapi\.json is"):
        compatibility(tmp_path, RELEASED)


def test_the_commands_say_what_they_compared(tmp_path: Path) -> None:
    """Without a release the check says that there is nothing to compare with; with one, with which."""
    folder = str(tmp_path)
    run = CliRunner().invoke
    version = learner_worker.__version__

    exported = run(cli, ["schemas", "export", folder])
    before = run(cli, ["schemas", "check", folder])
    released = run(cli, ["schemas", "release", folder])
    after = run(cli, ["schemas", "check", folder])

    assert [result.exit_code for result in (exported, before, released, after)] == [0, 0, 0, 0]
    assert "no released interface, so nothing to be compatible with" in before.output
    assert released.output == f"{tmp_path / 'released' / version / 'asyncapi.json'}\n"
    assert after.output == f"{folder}: current\ncompatible with {version}, the newest release\n"


def test_a_check_that_fails_says_how_to_write_the_files_anew(tmp_path: Path) -> None:
    """The sentence names the very folder and page."""
    folder, page = str(tmp_path / "schemas"), str(tmp_path / "page.md")

    result = CliRunner().invoke(cli, ["schemas", "check", folder, "--page", page])

    assert isinstance(result.exception, LearnerError)
    assert f"run `learner-worker schemas export {folder} --page {page}`" in str(result.exception)


def test_files_that_cannot_be_written_or_read_are_named(tmp_path: Path) -> None:
    """A file where a folder should be, or a folder where a file should be: one sentence, exit code 2."""
    (tmp_path / "file").touch()
    (tmp_path / "released" / "0.1.0" / "asyncapi.json").mkdir(parents=True)

    with pytest.raises(ConfigurationError, match=r"cannot write .*file"):
        release(tmp_path / "file" / "schemas", RELEASED)
    with pytest.raises(ConfigurationError, match=r"cannot read .*asyncapi\.json"):
        compatibility(tmp_path, RELEASED)


def test_the_check_fails_on_a_break(tmp_path: Path) -> None:
    """The released interface took a longer description: the check fails and says so."""
    version = learner_worker.__version__
    longer = edited(limits("bid-placed", "description", maxLength=99_999), version)
    run = CliRunner().invoke
    run(cli, ["schemas", "export", str(tmp_path)])
    path = release(tmp_path, longer)

    result = run(cli, ["schemas", "check", str(tmp_path)])

    assert json.loads(path.read_text(encoding="utf-8")) == longer
    assert isinstance(result.exception, LearnerError)
    assert "description has maxLength 16384 now, 99999 before" in str(result.exception)
