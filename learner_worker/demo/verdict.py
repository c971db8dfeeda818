"""The result in two sentences: what learning improved, and what it did not."""

from collections.abc import Sequence
from typing import Final

from learner_worker.demo.comparison import FigureDifference

LISTED: Final = ("auctions won", "success rate", "sats earned", "sats per win")
"""The figures in the sentences; completed and failed tasks follow from them."""


def verdict(differences: Sequence[FigureDifference]) -> tuple[str, str]:
    """Two sentences on the figures, the unflattering ones included."""
    listed = [difference for difference in differences if difference.name in LISTED]
    better = [difference for difference in listed if difference.helped]
    rest = [difference for difference in listed if not difference.helped]
    return _gain(better), _loss(rest)


def _gain(better: Sequence[FigureDifference]) -> str:
    if not better:
        return "Asking the learner improved none of the figures."
    return f"Agents that asked the learner did better in {_listed(better)}."


def _loss(rest: Sequence[FigureDifference]) -> str:
    if not rest:
        return "They were worse in none of the figures."
    return f"Learning did not help in {_listed(rest)}."


def _listed(differences: Sequence[FigureDifference]) -> str:
    phrases = [_phrase(difference) for difference in differences]
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)


def _phrase(difference: FigureDifference) -> str:
    asking, static = figure(difference.asking, difference.unit), figure(difference.static, difference.unit)
    doubt = "" if difference.beyond_chance or not difference.difference else ", which may be chance"
    return f"{difference.name} ({asking} against {static}{doubt})"


def figure(value: float, unit: str, *, sign: bool = False) -> str:
    """A number for people: whole, with thousands separators and its unit."""
    text = f"{round(value):+,}" if sign else f"{round(value):,}"
    return f"{text.replace(',', ' ')}{' ' if unit else ''}{unit}"
