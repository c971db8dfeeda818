"""Where aiokafka has to be patched: a method that is built as expected is replaced, any other left alone."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def replace_method(
    owner: type,
    name: str,
    parameters: Sequence[str],
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> bool:
    """Replaces a method by what is made of it, for all of this process.

    Args:
        parameters: the names of those it has to have, `self` included.

    Returns:
        False if it is not there or has others: then it is left alone.
    """
    method = getattr(owner, name, None)
    if method is None or list(inspect.signature(method).parameters) != list(parameters):
        return False
    setattr(owner, name, make(method))
    return True
