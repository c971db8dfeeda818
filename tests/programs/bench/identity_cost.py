"""What it costs to check who asks: processor time of an answer with and without, in one process, no Kafka."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

from learner_worker.contract.headers import Headers
from learner_worker.identity.keys import keys_of_jwks, keys_of_secrets
from learner_worker.observability import Instruments
from learner_worker.requests.clock import Clock
from learner_worker.requests.identity import IdentityCheck, IdentitySettings
from tests.programs.bench.answer_cost import FEW as OUTCOMES
from tests.programs.bench.answer_cost import REQUESTS, AskedAgent
from tests.programs.bench.figures import Figure
from tests.programs.bench.micros import micros_of_each
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import Stage, in_turns
from tests.support.tokens import AUDIENCE, Issuer, bearer, jwks, secret_file, valid_token

SECTION = "identity-cost"
FEW = 10
MANY = 100_000
ANSWERS = 20_000
_NEW = 2_000
_ALGORITHMS = ("RS256", "ES256", "EdDSA")
_AGENT = "ann"  # whom the tokens stand for


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures: answers with known tokens, few and many, beside none; new ones, by algorithm."""
    folder, answers = stage.new_folder("identity"), stage.scaled(ANSWERS, least=2_000)
    issuers = [Issuer(algorithm, algorithm) for algorithm in _ALGORITHMS]
    check = _check(folder, issuers)
    asked = await AskedAgent.of(stage, OUTCOMES, answers)
    known = [_Known(asked, check, stage.scaled(count, least=FEW)) for count in (FEW, MANY)]
    off, *required = await in_turns(stage.turns, asked.micros, *(each.micros for each in known))
    await asked.file.close()
    figures = [
        Figure(
            SECTION,
            f"an answer with a known token, one of {each.tokens:,}",
            "µs",
            reading(found),
            reading(off),
            "no check",
            sizes={"answers": answers, "tokens": each.tokens},
        )
        for each, found in zip(known, required, strict=True)
    ]
    new = {"HS256": valid_token, **{each.algorithm: each.valid_token for each in issuers}}
    return [*figures, *(_of_new_tokens(check, algorithm, make) for algorithm, make in new.items())]


class _Known:
    """Answers to requests that carry tokens which were verified before, one of so many each time."""

    def __init__(self, asked: AskedAgent, check: IdentityCheck, tokens: int) -> None:
        self._asked = asked
        self._check = check
        self.tokens = tokens
        headers = [bearer(valid_token(jti=str(number))) for number in range(tokens)]
        for each in headers:
            check.check(each, _AGENT)
        drawn = random.Random(tokens).choices(headers, k=len(REQUESTS))
        self._requests = list(zip(REQUESTS, drawn, strict=True))

    async def micros(self) -> float:
        """Of one answer, with its check."""
        micros = micros_of_each(self._answer, self._requests, self._asked.answers)
        self._asked.stage.say(f"{self.tokens:,} tokens: {micros:.1f} µs an answer")
        return micros

    def _answer(self, request: tuple[bytes, Headers]) -> None:
        value, headers = request
        self._check.check(headers, _AGENT)
        self._asked.answer(value)


def _check(folder: Path, issuers: Iterable[Issuer]) -> IdentityCheck:
    keys = folder / "jwks"
    keys.write_bytes(jwks(*(issuer.jwk for issuer in issuers)))
    files = {secret_file(folder): keys_of_secrets, keys: keys_of_jwks}
    settings = IdentitySettings(required=True, files=files, audience=AUDIENCE)
    return IdentityCheck(settings, Instruments().requests.identity, Clock())


def _of_new_tokens(check: IdentityCheck, algorithm: str, token: Callable[..., str]) -> Figure:
    """The check alone, of tokens that it has not seen."""
    headers = [bearer(token(jti=str(number))) for number in range(_NEW)]
    micros = micros_of_each(lambda each: check.check(each, _AGENT), headers, _NEW)
    return Figure(
        SECTION, f"the check of a new token, {algorithm}", "µs", reading([micros]), sizes={"tokens": _NEW}
    )
