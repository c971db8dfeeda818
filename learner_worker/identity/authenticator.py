"""Tells whom a token stands for now: from the cache, or by its signature."""

from collections.abc import Callable

from learner_worker.identity.cache import TokenCache
from learner_worker.identity.keys import KeySet
from learner_worker.identity.principal import Principal
from learner_worker.identity.tokens import TokenVerifier, require_time


class Authenticator:
    """Verifies tokens once and remembers them while they and their keys are valid.

    Args:
        keys: returns the keys that are valid now.
        audience: the name of this learner, which tokens have to be made for.
        issuer: who has to have made them; None: anyone who has a key.
    """

    def __init__(
        self,
        keys: Callable[[], KeySet],
        *,
        audience: str,
        issuer: str | None = None,
        cache: TokenCache | None = None,
    ) -> None:
        self._keys = keys
        self._verifier = TokenVerifier(keys, audience=audience, issuer=issuer)
        self._cache = TokenCache() if cache is None else cache

    def principal(self, token: bytes, now: float) -> Principal:
        """Whom a token stands for at a time (seconds since 1970).

        Raises:
            TokenError: it does not prove who asks.
        """
        principal = self._cache.get(token)
        if principal is None or principal.fingerprint not in self._keys().fingerprints:
            return self._verified(token, now)
        require_time(principal, now)
        return principal

    def _verified(self, token: bytes, now: float) -> Principal:
        principal = self._verifier.verify(token)
        require_time(principal, now)  # an expired token is not worth remembering
        self._cache.put(token, principal)
        return principal
