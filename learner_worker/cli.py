"""The command line: the table of commands, and the mapping of errors to exit codes.

Exit codes: 0 for success, 1 for a failure, 2 for an error in the arguments or the configuration.
"""

import errno
import io
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

import click
from click import NoSuchCommand

from learner_worker.commands.exit_codes import DENIALS, exit_code, is_refusal
from learner_worker.errors import LearnerError

_WITHOUT_DOCSTRINGS = 2  # Python's -OO
COMMANDS: Final[Mapping[str, str]] = {
    "run": "run:run",
    "leave": "leave:leave",
    "reshard": "reshard:reshard",
    "demo": "demo:demo",
    "dev": "dev:dev",
    "topics": "topics:topics",
    "suggest": "suggest:suggest",
    "insights": "insights:insights",
    "forward-requests": "forward_requests:forward_requests",
    "token": "token:token",
    "acls": "acls:acls",
    "doctor": "doctor:doctor",
    "dead-letters": "dead_letters:dead_letters",
    "outcomes": "outcomes:outcomes",
    "state": "state:state",
    "forget": "forget:forget",
    "import": "importing:import_swarm",
    "lab": "lab:lab",
    "schemas": "schemas:schemas",
}
"""Each command's module in `commands/`, and its name there."""


class LazyCommands(click.Group):
    """Imports a command's module when the command is used: importing all of them takes most of a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of that name.

        Raises:
            NoSuchCommand: there is none; the message names those like it.
        """
        if cmd_name not in COMMANDS:
            raise NoSuchCommand(cmd_name, possibilities=COMMANDS, ctx=ctx)
        module, name = COMMANDS[cmd_name].split(":")
        command = getattr(import_module(f"learner_worker.commands.{module}"), name)
        assert isinstance(command, click.Command)  # noqa: S101 (of the table above)
        _restore_help(command)
        return command


@click.group(
    cls=LazyCommands,
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
    _print_what_the_encoding_lacks()
    _restore_help(cli)
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit("learner-worker: stopped")
    except LearnerError as error:
        click.echo(f"learner-worker: {error}", err=True)
        sys.exit(exit_code(error))
    except RuntimeError as error:  # all of aiokafka's errors are
        _end_with_kafka_error(error)
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo(f"learner-worker: cannot write ({error.strerror}): make room, then try again", err=True)
        _give_up_output()
        sys.exit(1)


def _print_what_the_encoding_lacks() -> None:
    """Has characters that a terminal's encoding lacks printed as escapes, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _restore_help(command: click.Command) -> None:
    if sys.flags.optimize >= _WITHOUT_DOCSTRINGS:
        import_module("learner_worker.commands.help_texts").restore_help(command)


def _give_up_output() -> None:
    """Discards unwritten output: another attempt at exit would change the exit code."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _end_with_kafka_error(error: RuntimeError) -> None:
    """Ends the program with a sentence, if an error is one of aiokafka's."""
    denials = import_module(DENIALS)
    if isinstance(error, denials.KafkaError):
        click.echo(f"learner-worker: {denials.failure('Kafka did not do what was asked', error)}", err=True)
        sys.exit(2 if is_refusal(error) else 1)
