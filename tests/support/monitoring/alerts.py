"""The alert rules: few, each with its runbook, none about what mends itself."""

from dataclasses import dataclass
from typing import Any, Final

from tests.support.monitoring.names import ALL, BUILD, name_of

RUNBOOKS: Final = "docs/runbooks.md"
_FAILED: Final = "INTERNAL|OVERLOADED|RESTORING|EXPIRED|UNSENT"
_of_shards, _of_process, _of_lag = ALL.shards, ALL.process, ALL.lag
_requests: Final = name_of(ALL.requests.by_code)
_answers: Final = name_of(ALL.requests.answer_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert.

    Attributes:
        query: what is measured; it has a value also while all is well.
        condition: of the value; while it holds, the alert is pending, then firing.
        lasting: how long it has to hold.
        summary: one sentence; labels are written as `{{ $labels.job }}`.
    """

    name: str
    query: str
    condition: str
    lasting: str
    severity: str
    summary: str

    def rule(self) -> dict[str, Any]:
        """The rule in Prometheus' form."""
        return {
            "alert": self.name,
            "expr": f"{self.query} {self.condition}",
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": f"{RUNBOOKS}#{self.name.lower()}"},
        }


ALERTS: Final = (
    Alert(
        name="LearnerDown",
        query=f"(count by (job) ({BUILD}) or 0 * count by (job) (last_over_time({BUILD}[1d]))"
        f" or 0 * absent(last_over_time({BUILD}[1d])))",
        condition="< 1",
        lasting="2m",
        severity="critical",
        summary="No replica of the learner {{ $labels.job }} is scraped.",
    ),
    Alert(
        name="LearnerShardsMissing",
        query=f"(max by (job) ({name_of(_of_process.all_shards)})"
        f' - sum by (job) ({name_of(_of_process.shards)}{{state="ready"}}))',
        condition="> 0",
        lasting="10m",
        severity="critical",
        summary="Shards of {{ $labels.job }} have no owner or are still restoring: "
        "nobody answers for their agents.",
    ),
    Alert(
        name="LearnerRequestsFailing",
        query=f'sum by (job) (rate({_requests}{{code=~"{_FAILED}"}}[5m]))'
        f' / sum by (job) (rate({_requests}{{code!="REROUTED"}}[5m]))',
        condition="> 0.05",
        lasting="5m",
        severity="critical",
        summary="More than 5 % of the requests to {{ $labels.job }} get no advice.",
    ),
    Alert(
        name="LearnerAnswersSlow",
        query=f"histogram_quantile(0.99, sum by (job, le) (rate({_answers}_bucket[5m])))",
        condition="> 1",
        lasting="10m",
        severity="warning",
        summary="One in a hundred answers of {{ $labels.job }} takes longer than a second.",
    ),
    Alert(
        name="LearnerRequestsBehind",
        query=f"max by (job) ({name_of(_of_lag.request_seconds)})",
        condition="> 5",
        lasting="2m",
        severity="warning",
        summary="Requests to {{ $labels.job }} wait for more than five seconds.",
    ),
    Alert(
        name="LearnerEventsBehind",
        query=f"max by (job) ({name_of(_of_lag.event_seconds)})",
        condition="> 300",
        lasting="5m",
        severity="warning",
        summary="Events of {{ $labels.job }} wait for more than five minutes: advice is that old.",
    ),
    Alert(
        name="LearnerNotDurable",
        query=f"sum by (job, instance, process) (increase({name_of(_of_process.checkpoints)}"
        '{result="ok"}[5m]))',
        condition="< 1",
        lasting="5m",
        severity="critical",
        summary="{{ $labels.instance }} of {{ $labels.job }} makes no checkpoint.",
    ),
    Alert(
        name="LearnerRecordsLost",
        query=f"sum by (job, topic) (increase({name_of(_of_shards.records_lost)}[15m]))",
        condition="> 0",
        lasting="0m",
        severity="critical",
        summary="Kafka deleted records of {{ $labels.topic }} before {{ $labels.job }} had read them.",
    ),
    Alert(
        name="LearnerRecordsRefused",
        query=f"sum by (job, topic) (increase({name_of(_of_shards.records_refused)}[15m]))",
        condition="> 0",
        lasting="0m",
        severity="warning",
        summary="Kafka refuses records of {{ $labels.job }} for {{ $labels.topic }}.",
    ),
    Alert(
        name="LearnerDeadLetters",
        query=f"sum by (job, reason) (increase({name_of(_of_shards.dead_letters)}[15m]))",
        condition="> 0",
        lasting="0m",
        severity="warning",
        summary="Events to {{ $labels.job }} break the contract ({{ $labels.reason }}) and do not count.",
    ),
    Alert(
        name="LearnerRebalancing",
        query=f"max by (job) (increase({name_of(_of_process.rebalances)}[30m]))",
        condition="> 12",
        lasting="5m",
        severity="warning",
        summary="The group of {{ $labels.job }} does not settle.",
    ),
    Alert(
        name="LearnerClientsStuck",
        query=f"sum by (job, instance, process) (increase({name_of(_of_process.rebuilds)}[30m]))",
        condition="> 1.5",
        lasting="0m",
        severity="warning",
        summary="{{ $labels.instance }} of {{ $labels.job }} rebuilds its Kafka clients again and again.",
    ),
)


def groups() -> dict[str, Any]:
    """The rules as a file of Prometheus, and the `spec` of the operator's PrometheusRule."""
    return {"groups": [{"name": "learner-worker", "rules": [alert.rule() for alert in ALERTS]}]}
