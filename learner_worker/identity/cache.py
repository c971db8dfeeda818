"""Remembers verified tokens, so that a known token costs a hash instead of a signature."""

from hashlib import sha256
from typing import Final

from learner_worker.identity.principal import Principal

MAX_RECENT: Final = 100_000
"""As many agents as a shard caches; at most twice as many tokens are remembered, in some 60 MB."""


class TokenCache:
    """The principals of verified tokens, by the tokens' hashes: the tokens themselves are not kept.

    There are two generations. A token that is found moves to the recent one; when that is full, it becomes
    the older one, whose tokens are dropped. Tokens that were refused are never remembered, so that only the
    issuer can fill it.
    """

    def __init__(self, max_recent: int = MAX_RECENT) -> None:
        self._max_recent = max_recent
        self._recent: dict[bytes, Principal] = {}
        self._older: dict[bytes, Principal] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def get(self, token: bytes) -> Principal | None:
        """The principal of a token, if it is known."""
        digest = sha256(token).digest()
        known = self._recent.get(digest)
        if known is None and (known := self._older.pop(digest, None)) is not None:
            self._add(digest, known)
        return known

    def put(self, token: bytes, principal: Principal) -> None:
        """Remembers a verified token."""
        self._add(sha256(token).digest(), principal)

    def _add(self, digest: bytes, principal: Principal) -> None:
        if len(self._recent) >= self._max_recent:
            self._older, self._recent = self._recent, {}
        self._recent[digest] = principal
