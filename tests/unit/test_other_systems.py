"""Unusual interpreters: without Unix' own modules, as on Windows; without docstrings; without UTF-8."""

import os
import subprocess
import sys

WITHOUT_UNIX = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        missing = name in {"fcntl", "resource", "uvloop"}
        return None if missing else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
IMPORTS = """
import learner_worker, importlib
from learner_worker import BlockingLearnerClient, EventPublisher, LearnerClient, Topics, kafka_options
from learner_worker.cli import COMMANDS, cli
for place in COMMANDS.values():
    importlib.import_module("learner_worker.commands." + place.partition(":")[0])
"""
RUN = """
from learner_worker.cli import main
sys.argv = ["learner-worker", "run", "--http-port", "none", "--state-dir", "/tmp/none"]
main()
"""


def _ended(*parts: str) -> subprocess.CompletedProcess[str]:
    program = "".join((WITHOUT_UNIX, *parts))
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def test_clients_and_every_command_can_be_imported() -> None:
    """No module of the package needs a module of Unix to be imported."""
    ended = _ended(IMPORTS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_worker_says_what_it_needs() -> None:
    """`run` alone cannot work there: one sentence, exit code 2."""
    ended = _ended(RUN)
    assert ended.returncode == 2
    assert ended.stderr.startswith("learner-worker: a worker needs")
    assert "Traceback" not in ended.stderr


def test_the_help_is_there_without_docstrings() -> None:
    """`python -OO`: what a command does is read from its source."""
    helps = [
        subprocess.run(
            [sys.executable, *options, "-m", "learner_worker", *command, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for options in ([], ["-OO"])
        for command in ([], ["topics", "create"])
    ]
    assert helps[:2] == helps[2:]
    assert "Create the topics that do not exist" in helps[3]


SAYS_MORE_THAN_ASCII = """
import click, sys
from learner_worker import cli
cli.cli.get_command = lambda *_: click.Command("say", callback=lambda: print("caf\\xe9 \\u2192"))
sys.argv = ["learner-worker", "say"]
cli.main()
"""


def test_what_the_encoding_lacks_is_printed_as_an_escape() -> None:
    """A terminal of ASCII or Latin-1 alone: the text comes with escapes, and the command goes on."""
    for encoding, printed in (("ascii", b"caf\\xe9 \\u2192\n"), ("latin-1", b"caf\xe9 \\u2192\n")):
        ended = subprocess.run(
            [sys.executable, "-c", SAYS_MORE_THAN_ASCII],
            capture_output=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert ended.stdout == printed
