"""Whom a verified token stands for: agents by their ids, and agents whose ids begin with a prefix."""

from typing import Final

import msgspec

AGENT_PREFIX_CLAIM: Final = "agent_prefix"
"""The claim of a service that asks for many agents: the beginning of their ids, or several."""
ALL_AGENTS: Final = "*"
"""The prefix that covers every agent."""


class Principal(msgspec.Struct, frozen=True, gc=False):
    """Whom a token stands for, and when. Times are seconds since 1970.

    Attributes:
        fingerprint: of the key that verified the token.
    """

    agents: frozenset[str]
    prefixes: tuple[str, ...]
    not_before: float
    expires: float
    fingerprint: bytes

    def covers(self, agent_id: str) -> bool:
        """Whether it may ask for an agent's advice."""
        return agent_id in self.agents or agent_id.startswith(self.prefixes)
