"""Kafka's absence is said once, however many notice it, and waited out with growing pauses."""

from pathlib import Path
from typing import Any

from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError
from structlog.testing import capture_logs

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import Topics
from learner_worker.kafka.outage import Outage
from learner_worker.observability import Instruments
from learner_worker.shard.pacing import Pacing
from learner_worker.store.state_folder import StateFolder
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.standby_files import StandbyFiles
from learner_worker.worker.standbys import Standbys

DOCTOR = "`learner-worker doctor` prints the commands that allow it"
GONE = ConnectionError("no broker answers\nand more about it")


def test_an_absence_is_said_once_and_its_end_once() -> None:
    """The first to notice says it; it is over when everything works again."""
    outage = Outage()
    with capture_logs() as log:
        outage.failed("reading", GONE)
        outage.failed("requests", GONE)
        outage.failed("reading", GONE)
        outage.worked("reading")
        outage.worked("reading")
        assert outage.failing == {"requests"}
        outage.worked("requests")
    assert [line["event"] for line in log] == ["kafka.away", "kafka.back"]
    assert log[0]["noticed_by"] == "reading"
    assert log[0]["error"] == "ConnectionError: no broker answers"
    assert outage.seconds == 0


def test_a_refusal_is_said_with_its_remedy_and_no_absence() -> None:
    """Each refusal once, however many meet it; it is over when what met it works again."""
    outage = Outage()
    with capture_logs() as log:
        outage.failed("reading", GroupAuthorizationFailedError("learner"))
        outage.failed("reading", GroupAuthorizationFailedError("learner"))
        outage.failed("requests", GroupAuthorizationFailedError("learner"))
        assert outage.refusals == ["this user has no right to use group learner: " + DOCTOR]
        outage.worked("reading")
        outage.worked("requests")
    assert [line["event"] for line in log] == ["kafka.refused", "kafka.accepted", "kafka.accepted"]
    assert log[0]["reason"] == "this user has no right to use group learner: " + DOCTOR
    assert outage.refusals == []


def test_pauses_double_up_to_a_few_seconds_and_begin_anew() -> None:
    """A broker that comes back is not met by everybody at once, and nobody sleeps for long after it."""
    outage = Outage()
    assert [outage.failed("reading", GONE) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]
    outage.worked("reading")
    assert outage.failed("reading", GONE) == 0.5


async def test_an_absence_that_standbys_noticed_ends_when_there_are_none_to_follow(tmp_path: Path) -> None:
    """Their shards became this replica's own meanwhile: nobody would ever say that they work again."""
    outage, topic = Outage(), Topics().named().outcomes
    folder = StateFolder(tmp_path, cluster_id="c", topic_prefix="", partitions=1)
    standbys = Standbys(
        make_consumer=_unreachable,
        topic=topic,
        files=StandbyFiles(folder, topic, strategies=(), pacing=Pacing(), restorer=None),
        ownership=Ownership(),
        outage=outage,
        left=Instruments().process.standby_records,
    )
    standbys.follow(frozenset({ShardId(0)}))
    assert await standbys.one_turn() > 0
    assert outage.failing == {"standbys"}
    standbys.follow(frozenset())
    await standbys.one_turn()
    assert outage.seconds == 0


def _unreachable() -> Any:
    raise KafkaConnectionError
