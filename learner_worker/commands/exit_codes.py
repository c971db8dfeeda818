"""The exit code that an error ends the program with: 2 if it has to be corrected, 1 for a failure."""

from importlib import import_module

from learner_worker.contract.suggestions import INVALID_REQUEST
from learner_worker.errors import ConfigurationError, LearnerError, SuggestionError

DENIALS = "learner_worker.refusals.denials"  # imported when there is an error: aiokafka takes a while


def exit_code(error: LearnerError) -> int:
    """2 if the arguments or the configuration have to be corrected."""
    return 2 if _is_mistake(error) else 1


def is_refusal(error: Exception) -> bool:
    """Whether Kafka refuses, so that trying again cannot help."""
    return import_module(DENIALS).denial(error) is not None


def _is_mistake(error: LearnerError) -> bool:
    if isinstance(error, SuggestionError) and error.code == INVALID_REQUEST:
        return True
    return isinstance(error, ConfigurationError) or is_refusal(error)
