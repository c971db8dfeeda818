"""The tree of errors. Each class states what happened and what follows from it."""

from typing import NamedTuple


class LearnerError(Exception):
    """The base class of all errors that the learner raises on purpose."""


class ConfigurationError(LearnerError):
    """The settings, the topics or the state folder do not allow a start; exit code 2."""


class SupersededError(ConfigurationError):
    """Another group has taken these topics over: this group's workers stop."""


class Mismatch(NamedTuple):
    """Why topics or a file cannot be used, and the remedy: half a sentence each."""

    what: str
    remedy: str

    def error(self) -> ConfigurationError:
        """The mismatch as an error, in one sentence."""
        return ConfigurationError(f"{self.what}: {self.remedy}")


class BrokerError(LearnerError):
    """Kafka could not be reached or started; exit code 1."""


class RefusedError(BrokerError):
    """Kafka refuses this client, or the settings do not fit it: waiting cannot help; exit code 2."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(f"{mismatch.what}: {mismatch.remedy}")
        self.mismatch = mismatch


class ReshardError(LearnerError):
    """The topics are being resharded, or were meanwhile: the process has to start anew; exit code 1."""


class StuckError(LearnerError):
    """Kafka can be reached, but a client of this worker makes no progress: the worker is rebuilt."""


class DuplicateInstanceError(LearnerError):
    """Another replica has joined the group with this one's instance id; exit code 1."""


class StateError(LearnerError):
    """A shard's file cannot be read or written: the shard stops, and the process exits with code 1."""


class ClosedFileError(StateError):
    """A shard's file was closed before it was read: the shard moved to another replica, or is reopened."""


class UnreadableFileError(StateError):
    """A shard's file has no readable content; `kind` is damaged, newer or empty. It can be rebuilt."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ManifestError(LearnerError):
    """A snapshot's manifest cannot be read: the snapshot is skipped."""


class NewerManifestError(ManifestError):
    """A newer version wrote what a snapshot says of itself: that version may use it."""


class SnapshotError(LearnerError):
    """The store of snapshots does not answer or refuses: shards are restored from the changelog instead."""


class MissingObjectError(SnapshotError):
    """The store has no such object: another worker has deleted it meanwhile."""


class UpgradeRequiredError(LearnerError):
    """A record was written by a newer version: this worker must be upgraded."""


class RecordError(LearnerError):
    """A record breaks the contract: it becomes a dead letter, and the worker continues."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestError(LearnerError):
    """A request is answered with an error; `code` is one of the contract's codes."""

    def __init__(self, code: str, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class RefusedReplyError(LearnerError):
    """A request's headers name a reply address that must not be written to: it is counted and logged."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidEventError(LearnerError, ValueError):
    """An event passed to the publisher breaks the contract: nothing was sent."""


class SendError(LearnerError):
    """Kafka did not acknowledge a record: the shard returns to its last checkpoint."""


class SuggestionError(LearnerError):
    """The learner answered an agent with an error reply, or did not answer in time."""

    def __init__(self, code: str, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retry_after_ms = retry_after_ms
