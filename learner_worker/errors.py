"""The one tree of errors. Each class says who is told, and what they can do about it."""

from typing import NamedTuple


class LearnerError(Exception):
    """The root: everything the learner raises on purpose."""


class ConfigurationError(LearnerError):
    """The settings, the topics or the state folder do not allow a start: exit code 2."""


class Mismatch(NamedTuple):
    """Why topics or a file cannot be worked with, and what to do: half a sentence each."""

    what: str
    remedy: str

    def error(self) -> ConfigurationError:
        """The mismatch as an error, in one sentence."""
        return ConfigurationError(f"{self.what}: {self.remedy}")


class BrokerError(LearnerError):
    """Kafka could not be reached or started: exit code 1."""


class StuckError(LearnerError):
    """Kafka is there, but a client of this worker stands still: the worker is built anew."""


class DuplicateInstanceError(LearnerError):
    """Another replica has taken this one's name in the group: exit code 1, name the replicas apart."""


class StateError(LearnerError):
    """A shard's file cannot be read or written: the shard stops, the process exits with code 1."""


class ClosedFileError(StateError):
    """A shard's file was closed before it was read: the shard went to another replica, or is opened anew."""


class UnreadableFileError(StateError):
    """A shard's file cannot be looked into: `kind` says why (damaged, newer, empty). It can be rebuilt."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class UpgradeRequiredError(LearnerError):
    """A record was written by a newer version: upgrade this worker."""


class RecordError(LearnerError):
    """A record breaks the contract: it becomes a dead letter, and the worker goes on."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestError(LearnerError):
    """A request that gets an error reply: `code` is one of the contract's codes."""

    def __init__(self, code: str, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class RefusedReplyError(LearnerError):
    """A request's headers name a reply address that is never written: refused, counted and logged."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidEventError(LearnerError, ValueError):
    """An event handed to the publisher breaks the contract: correct it; nothing was sent."""


class SendError(LearnerError):
    """Kafka did not acknowledge a record: the shard goes back to its last checkpoint."""


class SuggestionError(LearnerError):
    """The learner answered an agent with an error reply, or did not answer in time."""

    def __init__(self, code: str, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retry_after_ms = retry_after_ms
