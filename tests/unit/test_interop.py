"""The judge of `make interop`: it says yes to what is right, and no to each thing that is not."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.programs.interop.__main__ import PAGE
from tests.programs.interop.clients import NESTJS, PYTHON
from tests.programs.interop.judging import Row, judge
from tests.programs.interop.questions import ASKS, UNPROVED, expected_replies
from tests.programs.interop.samples import FOLDER
from tests.programs.interop.tables import BEGIN, END, write

ROOT = Path(__file__).parents[2]

ERROR = "the future fails: INVALID_REQUEST: base_bid_sats: no whole number"
COUNTED = {"OK": len(ASKS), "INVALID_REQUEST": 1, "REFUSED": 1, "REROUTED": 2}


def _reply(name: str) -> dict[str, Any]:
    """A right reply, as it travels."""
    expected = expected_replies()[name]
    adjustments = [
        {"rule": rule, "multiplier": multiplier, "reason": "because"}
        for rule, multiplier in expected["adjustments"]
    ]
    as_of = "2026-01-01T00:00:00.000000Z" if expected["as_of"] else None
    return {**expected, "adjustments": adjustments, "as_of": as_of}


def _lines() -> list[dict[str, Any]]:
    """What a client prints that was told everything right."""
    return [
        {"version": "1.0"},
        *({"way": "send", "ask": question.name, "reply": _reply(question.name)} for question in ASKS),
        {"check": "one value", "holds": True},
        {"way": "send", "ask": "wrong", "error": ERROR},
        {"way": "unlisted", "ask": "refused", "silence": "TimeoutError"},
    ]


def _judged(
    lines: list[dict[str, Any]],
    counted: Mapping[str, int] = COUNTED,
    written: int = len(ASKS) + 1,
    *,
    with_tokens: bool = False,
) -> Row:
    output = "a line of the client's own log\n" + "\n".join(json.dumps(line) for line in lines)
    return judge("a client", output, counted, written, is_misplaced=True, with_tokens=with_tokens)


def _named(requirement: str) -> str:
    """The name and version, without extras, a marker or the lock's line continuation."""
    return re.sub(r"\[.*\]", "", requirement).partition(" ")[0]


def test_every_clients_lock_holds_what_is_named() -> None:
    """requirements.in and package.json name exact versions, and the lock beside each has them."""
    locked = (PYTHON.folder / "requirements.lock").read_text(encoding="utf-8")
    for line in (PYTHON.folder / "requirements.in").read_text(encoding="utf-8").split():
        assert _named(line) in {_named(pin) for pin in locked.splitlines()}
    for folder in (NESTJS.folder, FOLDER / "typescript"):
        root = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"][""]
        named = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        assert root["dependencies"] == named["dependencies"]
        assert all(re.fullmatch(r"[\d.]+", version) for version in named["dependencies"].values())


def test_what_is_right_is_ok() -> None:
    """All answers right, one error, one refusal: yes, with the error as the client shows it."""
    row = _judged(_lines())

    assert row.problems == ()
    assert (row.is_ok, row.right, row.version) == (True, "7 of 7", "1.0")
    assert row.errors == f"{ERROR}; unlisted topic: TimeoutError"


def test_a_reply_as_text_is_read_as_well() -> None:
    """A client may hand the body on as the text it was given."""
    lines = [{**line, "reply": json.dumps(line["reply"])} if "reply" in line else line for line in _lines()]

    assert _judged(lines).is_ok


def test_the_questions_reach_every_kind_of_answer() -> None:
    """Agents whose bid goes up, down and stays; one unknown; keywords asked for and not."""
    replies = expected_replies().values()

    assert {(reply["factor"] > 1) - (reply["factor"] < 1) for reply in replies} == {-1, 0, 1}
    assert sum(not reply["as_of"] for reply in replies) == 1
    assert {bool(reply.get("learned_keywords")) for reply in replies} == {True, False}


@pytest.mark.parametrize("field", ["suggested_bid_sats", "factor", "request_id", "metrics", "stale"])
def test_a_wrong_field_is_no(field: str) -> None:
    """One field of one answer is not the model's."""
    lines = _lines()
    lines[1]["reply"][field] = "something else"

    assert (_judged(lines).is_ok, _judged(lines).right) == (False, "6 of 7")


@pytest.mark.parametrize("left_out", range(1, len(_lines())))
def test_a_missing_line_is_no(left_out: int) -> None:
    """An answer, an error or a silence that the client never told of; a check may be left out."""
    lines = _lines()
    line = lines.pop(left_out)

    assert _judged(lines).is_ok == ("check" in line)


@pytest.mark.parametrize(
    "line",
    [
        {"check": "one value", "holds": False},
        {"way": "send", "ask": "wrong", "error": "none: it completed"},
        {"way": "unlisted", "ask": "refused", "reply": {}},
        {"something": "else"},
    ],
)
def test_a_line_that_tells_of_a_failure_is_no(line: dict[str, Any]) -> None:
    """A check that does not hold, an error that is none, a reply that must not come, a line of no kind."""
    counted = {**COUNTED, "INVALID_REQUEST": 1 + ("error" in line), "OK": COUNTED["OK"] + ("reply" in line)}

    assert not _judged([*_lines(), line], counted, len(ASKS) + 1 + ("way" in line)).is_ok


@pytest.mark.parametrize("unseen", [None, *UNPROVED])
def test_where_identity_is_required_each_refusal_has_to_be_seen(unseen: str | None) -> None:
    """Without a token and with another agent's, each by its code and once."""
    seen = {name: code for name, code in UNPROVED.items() if name != unseen}
    lines = [*_lines(), *({"way": "send", "ask": name, "error": code} for name, code in seen.items())]
    counted = {**COUNTED, **dict.fromkeys(seen.values(), 1)}

    row = _judged(lines, counted, len(ASKS) + 1 + len(seen), with_tokens=True)

    assert row.problems == (() if unseen is None else (f"no error reply was seen to: {unseen}",))


@pytest.mark.parametrize("code", COUNTED)
def test_counters_that_disagree_are_no(code: str) -> None:
    """The worker counted none of what the client says it got."""
    assert not _judged(_lines(), {**COUNTED, code: 0}).is_ok


@pytest.mark.parametrize("written", [len(ASKS), len(ASKS) + 2])
def test_a_reply_too_few_or_too_many_is_no(written: int) -> None:
    """The reply topics hold one record less, or one more, than replies were due."""
    assert not _judged(_lines(), written=written).is_ok


def test_the_table_replaces_what_stands_between_the_pages_marks(tmp_path: Path) -> None:
    """In docs/interop.md as it is: the rest of the page stays, and writing twice is writing once."""
    page = tmp_path / "interop.md"
    page.write_text((ROOT / PAGE).read_text(encoding="utf-8"), encoding="utf-8")
    before = page.read_text(encoding="utf-8").split(BEGIN)[0]

    write([_judged(_lines())], page)
    once = page.read_text(encoding="utf-8")
    write([_judged(_lines())], page)

    assert once == page.read_text(encoding="utf-8")
    assert once.startswith(before + BEGIN)
    assert [line for line in once.splitlines() if line.startswith("| a client | 1.0 |")] != []
    assert once.endswith(f"{END}\n")
