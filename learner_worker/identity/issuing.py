"""Issues tokens, for swarms without an identity provider."""

from collections.abc import Sequence

import msgspec
from jwt import PyJWS

from learner_worker.errors import ConfigurationError
from learner_worker.identity.keys import VerificationKey
from learner_worker.identity.principal import AGENT_PREFIX_CLAIM

_JWS = PyJWS()


def issued(
    key: VerificationKey,
    *,
    agents: Sequence[str],
    prefixes: Sequence[str],
    audience: str,
    issuer: str | None,
    now: int,
    expires: int,
) -> str:
    """A token for agents, and for all agents whose ids begin with a prefix.

    Args:
        key: the secret that signs it.
        audience: the learner that it is made for.
        now: when it is issued; it expires at `expires`, both in seconds since 1970.

    Raises:
        ConfigurationError: it would stand for nobody.
    """
    if not agents and not prefixes:
        raise ConfigurationError("a token has to be for somebody: name agents, or --prefix")
    claims: dict[str, object] = {"aud": audience, "iat": now, "exp": expires}
    if agents:
        claims["sub"] = agents[0] if len(agents) == 1 else list(agents)
    if prefixes:
        claims[AGENT_PREFIX_CLAIM] = prefixes[0] if len(prefixes) == 1 else list(prefixes)
    if issuer is not None:
        claims["iss"] = issuer
    return _JWS.encode(msgspec.json.encode(claims), key.key, key.algorithm)
