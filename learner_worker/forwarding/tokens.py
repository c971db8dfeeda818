"""The tokens of forwarded requests: short-lived ones, each for the agents of one topic."""

from collections.abc import Callable, Mapping
from typing import Final

from learner_worker.contract.topics import TopicName
from learner_worker.forwarding.bindings import Binding
from learner_worker.identity.issuing import issued
from learner_worker.identity.keys import KeySet

LIFETIME_SECONDS: Final = 300
"""Far above the time that a request lives, also where clocks differ by minutes."""
RENEWAL_SECONDS: Final = 60
"""One signature a minute for each topic, and most of a token's life left for its last request."""


class TopicTokens:
    """Signs a token for each topic, and signs another one after a minute, or when the secret has changed.

    Args:
        keys: returns the secrets that are valid now.
        audience: the learner that the tokens are made for.
    """

    def __init__(
        self,
        bindings: Mapping[TopicName, Binding],
        keys: Callable[[], KeySet],
        *,
        audience: str,
        issuer: str | None,
    ) -> None:
        self._bindings = bindings
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._known: dict[TopicName, tuple[bytes, int, bytes]] = {}

    def authorization(self, topic: TopicName, now: int) -> bytes:
        """The header's value for a request of that topic; `now` is in seconds since 1970."""
        key = self._keys().first
        fingerprint, signed_at, value = self._known.get(topic, (b"", 0, b""))
        if fingerprint != key.fingerprint or not 0 <= now - signed_at < RENEWAL_SECONDS:
            binding = self._bindings[topic]
            token = issued(
                key,
                agents=binding.agents,
                prefixes=binding.claimed_prefixes,
                audience=self._audience,
                issuer=self._issuer,
                now=now,
                expires=now + LIFETIME_SECONDS,
            )
            value = f"Bearer {token}".encode()
            self._known[topic] = (key.fingerprint, now, value)
        return value
