"""The Grafana dashboard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from prometheus_client import Counter, Gauge, Histogram

from tests.support.monitoring.names import ALL, BUILD, FORWARDING, name_of

UID: Final = "learner-worker"
RATE: Final = "$__rate_interval"
CHOSEN: Final = 'job=~"$job", instance=~"$instance"'
_WIDTH: Final = 24
_HEIGHT: Final = {"stat": 4, "timeseries": 8}
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_NOT_KNOWN: Final = {"type": "special", "options": {"match": "null+nan", "result": {"text": "N/A"}}}
"""A value that is missing is shown as such: as 0 it would look like good news."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel.

    Attributes:
        queries: each with its legend.
        unit: as Grafana names it.
        width: of 24 columns.
    """

    title: str
    meaning: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    width: int = 12
    kind: Literal["stat", "timeseries"] = "timeseries"


def of(instrument: Counter | Gauge | Histogram | str, labels: str = "", suffix: str = "") -> str:
    """The samples of the chosen replicas."""
    name = instrument if isinstance(instrument, str) else name_of(instrument)
    return f"{name}{suffix}{{{', '.join(filter(None, [CHOSEN, labels]))}}}"


def rate(instrument: Counter | str, by: str = "", labels: str = "") -> str:
    """A counter's increase a second, summed."""
    return f"sum {f'by ({by}) ' if by else ''}(rate({of(instrument, labels)}[{RATE}]))"


def quantile(share: float, histogram: Histogram) -> str:
    """A quantile over all chosen replicas."""
    return f"histogram_quantile({share}, sum by (le) (rate({of(histogram, suffix='_bucket')}[{RATE}])))"


def quantiles(histogram: Histogram) -> list[tuple[str, str]]:
    """The median, what one in a hundred exceeds, and one in a thousand."""
    return [(f"p{share * 100:g}", quantile(share, histogram)) for share in (0.5, 0.99, 0.999)]


_OK: Final = 'code="OK"'
_READY: Final = 'state="ready"'
_shards, _requests, _process, _lag = ALL.shards, ALL.requests, ALL.process, ALL.lag
ROWS: Final[Sequence[tuple[str, Sequence[Panel]]]] = (
    (
        "Overview",
        (
            Panel(
                "Replicas", "Replicas that are scraped.", [("", f"count({of(BUILD)})")], width=4, kind="stat"
            ),
            Panel(
                "Shards without an owner",
                "Shards that no replica owns ready to answer.",
                [("", f"max({of(_process.all_shards)}) - sum({of(_process.shards, _READY)})")],
                width=5,
                kind="stat",
            ),
            Panel(
                "Requests without advice",
                "Share of requests that were not answered with advice.",
                [("", f"1 - {rate(_requests.by_code, labels=_OK)} / {rate(_requests.by_code)}")],
                unit="percentunit",
                width=5,
                kind="stat",
            ),
            Panel(
                "Oldest unread event",
                "How long the oldest event that is not processed is known.",
                [("", f"max({of(_lag.event_seconds)})")],
                unit="s",
                width=5,
                kind="stat",
            ),
            Panel(
                "Dead letters",
                "Events that broke the contract, in the chosen time.",
                [("", f"sum(increase({of(_shards.dead_letters)}[$__range]))")],
                width=5,
                kind="stat",
            ),
        ),
    ),
    (
        "Answers",
        (
            Panel(
                "Requests by code",
                "OK and error codes once Kafka has the reply.",
                [("{{code}}", rate(_requests.by_code, "code"))],
                unit="reqps",
            ),
            Panel(
                "Time to answer",
                "From a request's record to Kafka's acknowledgement of its reply.",
                quantiles(_requests.answer_seconds),
                unit="s",
            ),
            Panel(
                "Requests that wait",
                "How long the oldest unanswered request of each shard is known.",
                [("shard {{shard}}", f"max by (shard) ({of(_lag.request_seconds)})")],
                unit="s",
            ),
            Panel(
                "Who asks",
                "Checks of identities, by result.",
                [("{{result}}", rate(_requests.identity, "result"))],
                unit="cps",
            ),
            Panel(
                "Advice not logged",
                "Answers that the advice log lacks.",
                [("lost", rate(_requests.advice_lost))],
                unit="cps",
            ),
        ),
    ),
    (
        "Events and learning",
        (
            Panel(
                "Events",
                "Events read, by topic and what became of them.",
                [("{{topic}} {{result}}", rate(_shards.events, "topic, result"))],
                unit="cps",
            ),
            Panel(
                "Events that wait",
                "How long the oldest unprocessed event is known, the worst shard of each topic.",
                [("{{topic}}", f"max by (topic) ({of(_lag.event_seconds)})")],
                unit="s",
            ),
            Panel(
                "Records behind",
                "Records that are not processed yet, by topic.",
                [("{{topic}}", f"sum by (topic) ({of(_lag.records)})")],
            ),
            Panel(
                "Records behind by shard",
                "One shard far above the others has one replica that is slow, or one busy auction.",
                [("shard {{shard}}", f"sum by (shard) ({of(_lag.shard_records)})")],
            ),
            Panel(
                "Facts and outcomes",
                "What is learned: facts sent, outcomes changed, outcomes expired.",
                [
                    ("facts", rate(_shards.facts)),
                    ("outcomes", rate(_shards.outcomes)),
                    ("expired", rate(_shards.outcomes_expired)),
                ],
                unit="cps",
            ),
            Panel(
                "Auctions in memory",
                "Auctions remembered, by state.",
                [("{{state}}", f"sum by (state) ({of(_shards.auctions)})")],
            ),
            Panel(
                "Dead letters by reason",
                "Events that break the contract.",
                [("{{reason}}", rate(_shards.dead_letters, "reason"))],
                unit="cps",
            ),
            Panel(
                "Lost, refused, forgotten, at an odd time",
                "Records lost by Kafka or refused by it, auctions without a close, odd record times.",
                [
                    ("lost {{topic}}", rate(_shards.records_lost, "topic")),
                    ("refused {{topic}}", rate(_shards.records_refused, "topic")),
                    ("no close", rate(_shards.auctions_forgotten, labels='closed="no"')),
                    ("odd record time {{topic}}", rate(_shards.record_times_off, "topic")),
                ],
                unit="cps",
            ),
        ),
    ),
    (
        "Durability and the group",
        (
            Panel(
                "Checkpoints",
                "Checkpoints a second, by result.",
                [("{{instance}} {{result}}", rate(_process.checkpoints, "instance, result"))],
                unit="cps",
            ),
            Panel("Time of a checkpoint", "Quantiles.", quantiles(_process.checkpoint_seconds), unit="s"),
            Panel(
                "Shards by replica",
                "What each replica owns.",
                [("{{instance}} {{state}}", f"sum by (instance, state) ({of(_process.shards)})")],
            ),
            Panel(
                "Records left to restore",
                "Of shards that restore, and of standbys.",
                [
                    ("shard {{shard}}", f"sum by (shard) ({of(_shards.restore_records)})"),
                    ("standby {{shard}}", f"sum by (shard) ({of(_process.standby_records)})"),
                ],
            ),
            Panel(
                "Snapshots",
                "Copies of shard files, by result; none without --snapshot-url.",
                [("{{instance}} {{result}}", f"increase({of(_process.snapshots)}[{RATE}])")],
            ),
            Panel(
                "Rebalances and rebuilds",
                "Assignments, and Kafka clients that were built anew.",
                [
                    ("{{instance}}", f"increase({of(_process.rebalances)}[{RATE}])"),
                    ("{{instance}} rebuilt", f"increase({of(_process.rebuilds)}[{RATE}])"),
                ],
            ),
            Panel(
                "Stalls of the event loop",
                "How late its timer comes: an answer may be as late.",
                quantiles(_process.loop_stall_seconds),
                unit="s",
            ),
        ),
    ),
    (
        "Forwarders",
        (
            Panel(
                "Requests forwarded",
                "Requests on agents' own topics, by what became of them; none without forward-requests.",
                [("{{result}}", rate(FORWARDING.requests, "result"))],
                unit="reqps",
            ),
            Panel(
                "Requests to forward",
                "Requests that are not sent on yet: the ten topics that have most.",
                [("{{topic}}", f"topk(10, sum by (topic) ({of(FORWARDING.lag)}))")],
            ),
        ),
    ),
    (
        "The process",
        (
            Panel(
                "Processor",
                "Cores used.",
                [("{{instance}}", rate("process_cpu_seconds_total", "instance"))],
                width=6,
            ),
            Panel(
                "Memory",
                "Resident memory.",
                [("{{instance}}", of("process_resident_memory_bytes"))],
                unit="bytes",
                width=6,
            ),
            Panel(
                "Open files",
                "Beside their limit.",
                [
                    ("{{instance}}", of("process_open_fds")),
                    ("{{instance}} limit", of("process_max_fds")),
                ],
                width=6,
            ),
            Panel(
                "Log lines lost",
                "Nobody reads stderr fast enough.",
                [("{{instance}}", rate(_process.log_lines_lost, "instance"))],
                unit="cps",
                width=6,
            ),
        ),
    ),
)


def queries() -> Iterator[tuple[str, str]]:
    """Every query with the title of its panel."""
    for _, panels in ROWS:
        for panel in panels:
            for _, query in panel.queries:
                yield panel.title, query


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's form."""
    return {
        "uid": UID,
        "title": "learner-worker",
        "tags": ["learner-worker", "kafka"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    own = f'__name__=~"{BUILD}|{name_of(FORWARDING.lag)}"'
    yield _label_variable("job", f"label_values({{{own}}}, job)")
    yield _label_variable("instance", f'label_values({{{own}, job=~"$job"}}, instance)')


def _label_variable(label: str, query: str) -> dict[str, Any]:
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in ROWS:
        number += 1
        place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        row = {"type": "row", "title": title, "panels": [], "collapsed": False}
        yield {"id": number, **row, "gridPos": place}
        left, top = 0, top + 1
        for panel in panels:
            if left + panel.width > _WIDTH:
                left, top = 0, top + _HEIGHT[panel.kind]
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": _HEIGHT[panel.kind]})
            left += panel.width
        top += _HEIGHT[panels[-1].kind]


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "noValue": "N/A", "mappings": [_NOT_KNOWN]},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries)
        ],
    }
