"""Judging what a client printed: against the model, the worker's counters and the reply topics."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from tests.programs.interop.questions import (
    ASKS,
    ERROR_CODES,
    UNPROVED,
    WRONG,
    WRONG_FIELD,
    comparable,
    expected_replies,
)

SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `problems` is empty when all is as it must be."""

    client: str
    version: str
    asked: str
    right: str
    errors: str
    problems: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether it works."""
        return not self.problems


@dataclass(slots=True)
class Report:
    """A client's lines, sorted by what they say."""

    version: str = ""
    notes: list[str] = field(default_factory=list)
    answers: list[tuple[str, str, Any]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    silences: list[str] = field(default_factory=list)
    ways: dict[str, None] = field(default_factory=dict)
    checks: Counter[str] = field(default_factory=Counter)
    failed_checks: Counter[str] = field(default_factory=Counter)


def read_report(output: str) -> Report:
    """The report in a client's standard output; lines that are no JSON objects are not the report's."""
    report = Report()
    for line in output.splitlines():
        if line.startswith("{"):
            _note(report, json.loads(line))
    return report


def _note(report: Report, line: Mapping[str, Any]) -> None:
    if "way" in line:
        report.ways[line["way"]] = None
    match line:
        case {"version": version}:
            report.version = version
        case {"note": note}:
            report.notes.append(note)
        case {"check": what, "holds": holds}:
            (report.checks if holds else report.failed_checks)[what] += 1
        case {"ask": ask, "error": error}:
            report.errors.append((ask, error))
        case {"silence": silence}:
            report.silences.append(silence)
        case {"way": way, "ask": ask, "reply": reply}:
            report.answers.append((way, ask, reply))
        case _:
            report.failed_checks[f"a line that says nothing: {line}"] += 1


def judge(
    title: str,
    output: str,
    counted: Mapping[str, int],
    written: int,
    *,
    is_misplaced: bool,
    with_tokens: bool = False,
) -> Row:
    """The client's row. `counted`: the worker's requests by code; `written`: records on all reply topics."""
    report = read_report(output)
    expected = expected_replies()
    wrong = [
        f"{way}: {ask} was told {_shortened(str(reply))}"
        for way, ask, reply in report.answers
        if comparable(reply) != expected.get(ask)
    ]
    problems = [
        *wrong,
        *(f"not so ({times} times): {what}" for what, times in report.failed_checks.items()),
        *_unasked(report),
        *_unclear_errors(report.errors, {WRONG.name, *(UNPROVED if with_tokens else ())}),
        *_miscounted(report, counted, written),
    ]
    if is_misplaced and not counted.get("REROUTED"):
        problems.append("none of its requests lay on a wrong partition: nothing was shown about them")
    return Row(
        title,
        report.version,
        _asked(report, counted),
        f"{len(report.answers) - len(wrong)} of {len(report.answers)}",
        _shown(report),
        tuple(problems),
    )


def _unasked(report: Report) -> list[str]:
    asked = {ask for _, ask, _ in report.answers}
    return [f"never asked for {question.name}" for question in ASKS if question.name not in asked]


def _unclear_errors(errors: Sequence[tuple[str, str]], due: Set[str]) -> list[str]:
    problems = [f"no error reply was seen to: {ask}" for ask in sorted(due - {ask for ask, _ in errors})]
    problems += [
        f"an error that does not name its code {ERROR_CODES[ask]}: {error}"
        for ask, error in errors
        if ERROR_CODES[ask] not in error
    ]
    return (
        problems
        if any(WRONG_FIELD in error for _, error in errors)
        else [*problems, f"no error names {WRONG_FIELD}"]
    )


def _miscounted(report: Report, counted: Mapping[str, int], written: int) -> list[str]:
    replies = len(report.answers) + len(report.errors)
    due = {"OK": len(report.answers), "REFUSED": 1}
    due |= Counter(ERROR_CODES[ask] for ask, _ in report.errors)
    problems = [
        f"the worker counted {counted.get(code, 0)} {code}, due were {count}"
        for code, count in due.items()
        if counted.get(code, 0) != count
    ]
    if len(report.silences) != 1:
        problems.append(f"{len(report.silences)} requests for the unlisted topic stayed unanswered, 1 must")
    if written != replies:
        problems.append(f"{written} records were written to reply topics, due were {replies}")
    return problems


def _asked(report: Report, counted: Mapping[str, int]) -> str:
    requests = len(report.answers) + len(report.errors) + len(report.silences)
    moved = counted.get("REROUTED", 0)
    return f"{requests} requests, {moved} of them moved: {'; '.join(report.ways)}"


def _shown(report: Report) -> str:
    shown = dict.fromkeys(_shortened(error) for _, error in report.errors)
    silences = dict.fromkeys(report.silences)
    return "; ".join([*shown, *(f"unlisted topic: {silence}" for silence in silences), *report.notes])


def _shortened(text: str) -> str:
    """What comes before the body, or the beginning."""
    before = text.split("{", maxsplit=1)[0] if "{" in text[1:] else text
    before = before.removesuffix(", body ").removesuffix(", payload ").removesuffix(", value ").strip(" :,")
    return before if len(before) <= SHOWN_CHARACTERS else before[: SHOWN_CHARACTERS - 1] + "…"
