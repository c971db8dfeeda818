"""Kafka's absence is said once, however many notice it, and waited out with growing pauses."""

from structlog.testing import capture_logs

from learner_worker.stream.outage import Outage

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


def test_pauses_double_up_to_a_few_seconds_and_begin_anew() -> None:
    """A broker that comes back is not met by everybody at once, and nobody sleeps for long after it."""
    outage = Outage()
    assert [outage.failed("reading", GONE) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]
    outage.worked("reading")
    assert outage.failed("reading", GONE) == 0.5
