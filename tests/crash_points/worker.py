"""A worker with a point laid into it: `python -m tests.crash_points.worker POINT NTH -- run ...`."""

import sys
from contextlib import ExitStack
from unittest import mock

from learner_worker import cli
from tests.crash_points.disk import DISK
from tests.crash_points.fuse import Fuse
from tests.crash_points.points import POINTS


def main() -> None:
    """Lays the fuse and becomes the worker."""
    _, name, passings, _, *arguments = sys.argv
    point = {**POINTS, **DISK}[name]
    sys.argv = ["learner-worker", *arguments]
    with ExitStack() as laid:
        for owner, attribute, replacement in point.patches(Fuse(name, int(passings), point.effect)):
            laid.enter_context(mock.patch.object(owner, attribute, replacement))
        cli.main()


if __name__ == "__main__":
    main()
