"""Hypothesis against everything that reads what others wrote: a result or a named error, nothing else.

500 examples a test, always the same ones, so that a change is judged and not the dice. With `FUZZ_EXAMPLES`
in the environment as many, others each time; a failure then prints the line that reproduces it.
"""

import os

from hypothesis import HealthCheck, settings

_ASKED = os.environ.get("FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(_ASKED or 500),
    derandomize=_ASKED is None,
    print_blob=True,
    database=None,
    deadline=None,
    # Inputs of a mebibyte are meant, and so are examples that take their time.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
"""What every test here runs with."""
