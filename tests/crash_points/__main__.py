"""The long run, one line a point: `python -m tests.crash_points --times 20 --disk 100`."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from learner_worker.brokers import Broker, BrokerKind, available_brokers, running_broker
from tests.crash_points.disk import DISK
from tests.crash_points.plays import AT_ONCE, Play, Row, planned, play_all
from tests.crash_points.points import POINTS, Point

_PREFERRED = (BrokerKind.KAFKA, BrokerKind.DOCKER, BrokerKind.EMBEDDED)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash_points", description=__doc__)
    parser.add_argument("--times", type=int, default=0, help="how often to kill a worker at each point")
    parser.add_argument("--disk", type=int, default=0, help="how many disk faults, over all their points")
    parser.add_argument(
        "--point", action="append", choices=[*POINTS, *DISK], help="only this one; repeatable"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first history; the others follow")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="scenes side by side")
    parser.add_argument("--broker", type=BrokerKind, choices=_PREFERRED, help="the first that is there")
    return parser.parse_args()


def _chosen(points: dict[str, Point], given: Sequence[str] | None) -> list[str]:
    return [name for name in points if given is None or name in given]


def _plays(arguments: argparse.Namespace) -> list[Play]:
    killed, failing = _chosen(POINTS, arguments.point), _chosen(DISK, arguments.point)
    each = -(-arguments.disk // len(failing)) if failing else 0
    return [
        *planned(killed, arguments.times, arguments.seed),
        *list(planned(failing, each, arguments.seed))[: arguments.disk],
    ]


def _told_as_table(rows: dict[str, Row]) -> str:
    head = "".join(f"{name:>11}" for name in ("times", "lost", "duplicated", "different", "failed"))
    lines = [f"{'point':26}{head}", *(f"{name:26}{row}" for name, row in rows.items())]
    return "\n".join(lines)


def _broker(asked: BrokerKind | None) -> BrokerKind:
    available = available_brokers()
    return asked or next(kind for kind in _PREFERRED if kind in available)


def main() -> int:
    """Plays what was asked and prints the table; 1 if anything was not flawless."""
    arguments = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)  # it says how long new topics take
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception: the broker is stopped, too
    with running_broker(_broker(arguments.broker)) as broker:
        rows = _rows(arguments, broker)
    sys.stdout.write(f"{broker.description}\n{_told_as_table(rows)}\n")
    flawless = all(
        (row.lost, row.duplicated, row.different, row.failed) == (0, 0, 0, 0) for row in rows.values()
    )
    return 0 if flawless else 1


def _rows(arguments: argparse.Namespace, broker: Broker) -> dict[str, Row]:
    plays = _plays(arguments)
    return asyncio.run(play_all(plays, broker.bootstrap_servers, arguments.at_once))


if __name__ == "__main__":
    sys.exit(main())
