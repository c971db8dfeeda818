"""The command line: the table of commands, and the mapping of errors to exit codes.

Exit codes: 0 for success, 1 for a failure, 2 for an error in the arguments or the configuration.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from learner_worker.commands.dead_letters import dead_letters
from learner_worker.commands.demo import demo
from learner_worker.commands.doctor import doctor
from learner_worker.commands.forget import forget
from learner_worker.commands.importing import import_swarm
from learner_worker.commands.lab import lab
from learner_worker.commands.leave import leave
from learner_worker.commands.outcomes import outcomes
from learner_worker.commands.run import run
from learner_worker.commands.schemas import schemas
from learner_worker.commands.state import state
from learner_worker.commands.suggest import suggest
from learner_worker.commands.topics import topics
from learner_worker.contract.suggestions import INVALID_REQUEST
from learner_worker.errors import ConfigurationError, LearnerError, SuggestionError

COMMANDS: Final[tuple[click.Command, ...]] = (
    run,
    leave,
    demo,
    topics,
    suggest,
    doctor,
    dead_letters,
    outcomes,
    state,
    forget,
    import_swarm,
    lab,
    schemas,
)


@click.group(
    commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="learner-worker")
def cli() -> None:
    """Learns from the outcomes of a swarm's reverse auctions and tells agents how to adjust their bids.

    Start with `learner-worker demo`. In production: `learner-worker topics create` once, then
    `learner-worker run` on every replica.
    """


def main() -> NoReturn:
    """The console script: prints an error as one sentence and returns its exit code, without a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit("learner-worker: stopped")
    except LearnerError as error:
        click.echo(f"learner-worker: {error}", err=True)
        sys.exit(2 if _is_mistake(error) else 1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo(f"learner-worker: cannot write ({error.strerror}): make room, then try again", err=True)
        _give_up_output()
        sys.exit(1)


def _give_up_output() -> None:
    """Discards unwritten output: another attempt at exit would change the exit code."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _is_mistake(error: LearnerError) -> bool:
    """Whether the arguments or the configuration have to be corrected."""
    if isinstance(error, SuggestionError):
        return error.code == INVALID_REQUEST
    return isinstance(error, ConfigurationError)
