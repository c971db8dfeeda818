"""The experiment of a worker's settings."""

from collections.abc import Sequence

from learner_worker.errors import ConfigurationError
from learner_worker.settings import Settings
from learner_worker.strategies.experiment import Experiment, parse_experiment
from learner_worker.strategies.protocol import Strategy


def experiment_of(settings: Settings, strategies: Sequence[Strategy]) -> Experiment | None:
    """The experiment, if there is one.

    Raises:
        ConfigurationError: it cannot be read, names a strategy that the worker lacks, or is not logged.
    """
    if settings.experiment is None:
        return None
    experiment = parse_experiment(settings.experiment_name, settings.experiment)
    known = [strategy.name for strategy in strategies]
    unknown = [arm for arm in experiment.shares if arm not in known]
    if unknown:
        raise ConfigurationError(
            f"--experiment: this worker has no strategy {unknown[0]!r}, only {', '.join(known)}; "
            "--strategies adds some"
        )
    if not settings.advice_log:
        raise ConfigurationError(
            "--experiment: without --advice-log nobody can tell what came of it: give both"
        )
    return experiment
