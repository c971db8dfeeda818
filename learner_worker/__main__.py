"""`learner-worker`, or `python -m learner_worker`: prepares the process, imports the program and runs it.

Importing takes about a second: signals are handled and the standard streams are open before that.
"""

import sys
from importlib import import_module
from typing import NoReturn

from learner_worker import signals, standard_streams


def main() -> NoReturn:
    """The console script."""
    signals.end_on_signals()
    standard_streams.open_missing()
    standard_streams.tolerate_stderr()
    cli = import_module("learner_worker.cli")
    if not signals.runs_a_replica():
        signals.interrupt_by_keyboard()
    cli.main()
    sys.exit()


if __name__ == "__main__":
    main()
