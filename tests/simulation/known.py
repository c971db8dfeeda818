"""A run that notices the loss of each safeguard: the tests try it first, and others if it does not fail.

A change of the code may make a seed something else, and only the tests' time grows. New ones:
`python -m tests.simulation.ablation known`.
"""

from typing import Final

KNOWN: Final[dict[str, str]] = {}
