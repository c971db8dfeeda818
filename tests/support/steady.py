"""Topics that stay as they are, for workers without a Kafka behind them."""

import asyncio


async def nothing_to_confirm() -> None:
    """The topics have no other layout than at the beginning."""


class SteadyTopics:
    """A guard that has nothing to tell."""

    incarnation = "first"

    def __init__(self, incarnation: str = incarnation) -> None:
        self.incarnation = incarnation

    async def look(self) -> None:
        """They are the same."""

    async def confirm(self) -> bool:
        """They are known to be the same."""
        return True

    async def confirm_anew(self) -> bool:
        """They are still the same."""
        return True

    async def watch(self, stopping: asyncio.Event) -> None:
        """They stay the same."""
        await stopping.wait()
