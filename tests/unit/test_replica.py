"""What a replica's run lets out: a sentence for what the learner knows, everything for what it does not."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from learner_worker.errors import ConfigurationError
from learner_worker.worker import replica


def _failing(error: Exception) -> Any:
    async def run(_: asyncio.Event) -> None:
        raise error

    return SimpleNamespace(run=run)


async def test_a_failure_in_groups_comes_out_as_itself() -> None:
    """However deep it lies."""
    known = ConfigurationError("known")
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [known])])
    with pytest.raises(ConfigurationError) as raised:
        await replica.run_unwrapped(_failing(group), asyncio.Event())
    assert raised.value is known


async def test_what_is_not_known_is_not_hidden_behind_what_is() -> None:
    """The whole group comes out, for its traceback."""
    group = ExceptionGroup("both", [ConfigurationError("known"), ZeroDivisionError()])
    with pytest.raises(ExceptionGroup) as raised:
        await replica.run_unwrapped(_failing(group), asyncio.Event())
    assert raised.value is group
