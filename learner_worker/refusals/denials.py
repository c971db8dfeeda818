"""Errors of Kafka in words, and which of them are refusals: trying again cannot help."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from learner_worker.errors import BrokerError, Mismatch, RefusedError

__all__ = [
    "CORRECT_LOGIN",
    "CORRECT_TOKENS",
    "LOGIN_ERRORS",
    "KafkaError",
    "denial",
    "failure",
    "in_words",
    "topics_denied",
]
LOGIN_ERRORS: Final = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
"""Raised when Kafka does not accept the user, the password or the kind of login."""
CORRECT_LOGIN: Final = "correct --sasl-username and LEARNER_SASL_PASSWORD, or create that user in Kafka"
CORRECT_TOKENS: Final = (
    "correct --sasl-oauth-token-url, --sasl-oauth-client-id and --sasl-oauth-client-secret-file, or the "
    "function of --sasl-oauth-provider"
)
_ALLOW = "`learner-worker doctor` prints the commands that allow it"
_NO_ANSWER = (TimeoutError, KafkaTimeoutError, RequestTimedOutError)
_NUMBER_AND_CLASS = re.compile(r"^(\[Error -?\d+\] )?[A-Za-z]*(Error|Failed)(: |$)")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def denial(error: BaseException | None) -> Mismatch | None:
    """What an error, or one that caused it, says is refused, with the remedy; None for an outage."""
    while error is not None:
        for found in _denials(error):
            return found
        error = error.__cause__
    return None


def _denials(error: BaseException) -> Iterator[Mismatch]:
    if isinstance(error, RefusedError):
        yield error.mismatch
    elif isinstance(error, TopicAuthorizationFailedError):
        yield topics_denied(_names(error.args))
    elif isinstance(error, GroupAuthorizationFailedError):
        yield Mismatch(f"this user has no right to use group {', '.join(_names(error.args))}", _ALLOW)
    elif isinstance(error, ClusterAuthorizationFailedError):
        yield Mismatch("this user has no right to do that on the cluster", "ask as a user who has it")
    elif isinstance(error, LOGIN_ERRORS):
        words = in_words(error)
        remedy = CORRECT_TOKENS if words.startswith("the token ") else CORRECT_LOGIN
        yield Mismatch(f"Kafka refuses the login: {words}", remedy)


def topics_denied(names: Iterable[str]) -> Mismatch:
    """The refusal of topics."""
    return Mismatch(f"this user has no right to use topic {', '.join(names)}", _ALLOW)


def _names(arguments: Iterable[object]) -> list[str]:
    """The topics or groups that an error names."""
    named = next(iter(arguments), "")
    names = map(str, named) if isinstance(named, set | frozenset | list | tuple) else [str(named)]
    return sorted(name.rpartition(" ")[2] for name in names)


def in_words(error: BaseException) -> str:
    """The reason that an error gives, as part of a sentence."""
    if isinstance(error, _NO_ANSWER):
        return "no answer"
    if isinstance(error, NodeNotReadyError):
        return "a broker of the cluster cannot be reached"
    return _NUMBER_AND_CLASS.sub("", str(error)).strip() or _class_in_words(error)


def _class_in_words(error: BaseException) -> str:
    return " ".join(_WORD.findall(type(error).__name__.removesuffix("Error"))).lower() or "no reason given"


def failure(what: str, error: BaseException, remedy: str = "") -> BrokerError:
    """The error for something that Kafka did not do.

    Args:
        what: what did not happen, as a clause.
        remedy: what to do about an outage.
    """
    refused = denial(error)
    if refused is not None:
        return RefusedError(Mismatch(f"{what}, because {refused.what}", refused.remedy))
    return BrokerError(f"{what} ({in_words(error)})" + (f": {remedy}" if remedy else ""))
