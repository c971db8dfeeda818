"""Real tasks: questions of MMLU, and which of two models answered them right (data/README.md)."""

import functools
import string
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

_FILE: Final = Path(__file__).parent / "data" / "mmlu_two_models.json"
_ALPHABET: Final = string.ascii_lowercase


class Question(NamedTuple):
    """A question as a task: its subject and words in letters, and who is right."""

    description: str
    right: tuple[bool, bool]


@functools.cache
def all_questions() -> list[Question]:
    """All questions, read once a process."""
    rows = msgspec.json.decode(_FILE.read_bytes(), type=list[tuple[int, list[int], int, int]])
    return [
        Question(_text(subject, words), (first == 1, second == 1)) for subject, words, first, second in rows
    ]


def _text(subject: int, words: list[int]) -> str:
    return " ".join([f"subject{_spelled(subject)}", *(f"word{_spelled(word)}" for word in words)])


def _spelled(number: int) -> str:
    """A number in letters: keywords have no digits."""
    high, low = divmod(number, len(_ALPHABET) ** 2)
    return _ALPHABET[high] + _ALPHABET[low // len(_ALPHABET)] + _ALPHABET[low % len(_ALPHABET)]
