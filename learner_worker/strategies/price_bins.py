"""Prices in bins of a sixteenth of an octave: exact up to 16 sats, within 6 % above."""

from typing import Final

from learner_worker.contract.fields import MAX_SATS

_BINS_PER_OCTAVE: Final = 16  # bins of at most 6 %: bids closer than that have about the same chance
BINS_PER_CLASS: Final = 8  # half an octave: bids of about one size


def price_bin(sats: int) -> int:
    """The bin of a price."""
    if sats < _BINS_PER_OCTAVE:
        return sats
    exponent = sats.bit_length() - 1
    return _BINS_PER_OCTAVE * (exponent - 3) + ((sats >> (exponent - 4)) & 15)


def lower_edge(number: int) -> int:
    """The lowest price in a bin."""
    if number < _BINS_PER_OCTAVE:
        return number
    return (_BINS_PER_OCTAVE + number % _BINS_PER_OCTAVE) << (number // _BINS_PER_OCTAVE - 1)


def price_class(sats: int) -> int:
    """The class of an own bid: the results of bids of similar size are kept together."""
    return price_bin(sats) // BINS_PER_CLASS


LOWER_EDGES: Final = tuple(map(lower_edge, range(price_bin(MAX_SATS) + 3)))
"""Of every bin, and of two beyond the greatest price."""
EXACT_EDGES: Final = tuple(map(float, LOWER_EDGES))
"""The same as doubles, exactly: an edge has at most five significant bits."""
BELOW_EDGES: Final = tuple(float(edge - 1) for edge in LOWER_EDGES)
"""The bids that are looked at, as doubles, exactly up to the greatest price."""
