"""The dashboard and the alert rules: current, about metrics that exist, and firing when they should."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import Metric

from tests.support.monitoring.alerts import ALERTS, RUNBOOKS, Alert
from tests.support.monitoring.dashboard import ROWS, dashboard, queries
from tests.support.monitoring.files import FILES, RULES
from tests.support.monitoring.names import ALL, FORWARDING
from tests.support.prometheus import ROOT, promtool

A: Final = 'job="learner", instance="a"'
B: Final = 'job="learner", instance="b"'
_METRIC: Final = re.compile(r"\b(?:learner|process)_\w+")
Series = dict[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """Series by which an alert fires at a minute, and others by which it does not.

    Values are in promtool's notation, one a minute: `0+5x9` grows by five nine times, `3x9` stays.
    """

    minute: int
    fires: Series
    quiet: Series
    labels: tuple[str, ...] = ("job",)


VALUES: Final = {"job": "learner", "instance": "a", "topic": "facts", "reason": "invalid"}
CASES: Final = {
    "LearnerDown": Case(
        10, {f"learner_build_info{{{A}}}": "1x3 stale"}, {f"learner_build_info{{{A}}}": "1x3 stale 1x20"}
    ),
    "LearnerShardsMissing": Case(
        20,
        {
            f"learner_topology_shards{{{A}}}": "12x30",
            f'learner_shards{{{A}, state="ready"}}': "11x30",
            f'learner_shards{{{A}, state="restoring"}}': "1x30",
        },
        {
            f"learner_topology_shards{{{A}}}": "12x30",
            f"learner_topology_shards{{{B}}}": "12x30",
            f'learner_shards{{{A}, state="ready"}}': "7x30",
            f'learner_shards{{{B}, state="ready"}}': "0x12 5x30",
        },
    ),
    "LearnerRequestsFailing": Case(
        20,
        {
            f'learner_requests_total{{{A}, code="OK"}}': "0+90x30",
            f'learner_requests_total{{{A}, code="EXPIRED"}}': "0+10x30",
            f'learner_requests_total{{{A}, code="REROUTED"}}': "0+900x30",
        },
        {
            f'learner_requests_total{{{A}, code="OK"}}': "0+90x30",
            f'learner_requests_total{{{A}, code="INVALID_REQUEST"}}': "0+90x30",
            f'learner_requests_total{{{A}, code="UNSENT"}}': "0+1x30",
        },
    ),
    "LearnerAnswersSlow": Case(
        20,
        {
            f'learner_answer_seconds_bucket{{{A}, le="1"}}': "0+90x30",
            f'learner_answer_seconds_bucket{{{A}, le="2.5"}}': "0+100x30",
            f'learner_answer_seconds_bucket{{{A}, le="+Inf"}}': "0+100x30",
        },
        {
            f'learner_answer_seconds_bucket{{{A}, le="0.5"}}': "0+90x30",
            f'learner_answer_seconds_bucket{{{A}, le="1"}}': "0+100x30",
            f'learner_answer_seconds_bucket{{{A}, le="+Inf"}}': "0+100x30",
        },
    ),
    "LearnerRequestsBehind": Case(
        5,
        {f'learner_request_lag_seconds{{{A}, shard="3"}}': "8x9"},
        {f'learner_request_lag_seconds{{{A}, shard="3"}}': "8x3 0x9"},
    ),
    "LearnerEventsBehind": Case(
        10,
        {f'learner_event_lag_seconds{{{A}, shard="3", topic="bids"}}': "301x20"},
        {f'learner_event_lag_seconds{{{A}, shard="3", topic="bids"}}': "301x7 0 301x20"},
    ),
    "LearnerNotDurable": Case(
        20,
        {
            f'learner_checkpoints_total{{{A}, result="ok"}}': "0+60x9 540x20",
            f'learner_checkpoints_total{{{A}, result="failed"}}': "0x9 0+60x20",
        },
        {
            f'learner_checkpoints_total{{{A}, result="ok"}}': "0+60x20",
            f'learner_checkpoints_total{{{A}, result="failed"}}': "0+60x20",
        },
        ("job", "instance"),
    ),
    "LearnerRecordsLost": Case(
        10,
        {f'learner_records_lost_total{{{A}, topic="facts"}}': "0x8 7x9"},
        {f'learner_records_lost_total{{{A}, topic="facts"}}': "7x20"},
        ("job", "topic"),
    ),
    "LearnerRecordsRefused": Case(
        10,
        {f'learner_records_refused_total{{{A}, topic="facts"}}': "0x8 1x9"},
        {f'learner_records_refused_total{{{A}, topic="facts"}}': "0x20"},
        ("job", "topic"),
    ),
    "LearnerDeadLetters": Case(
        10,
        {f'learner_dead_letters_total{{{A}, reason="invalid"}}': "0x8 1x9"},
        {f'learner_dead_letters_total{{{A}, reason="invalid"}}': "4x20"},
        ("job", "reason"),
    ),
    "LearnerRebalancing": Case(
        40, {f"learner_rebalances_total{{{A}}}": "0+1x60"}, {f"learner_rebalances_total{{{A}}}": "0x20 9x40"}
    ),
    "LearnerClientsStuck": Case(
        20,
        {f"learner_rebuilds_total{{{A}}}": "0x9 1x5 2x20"},
        {f"learner_rebuilds_total{{{A}}}": "0x9 1x20"},
        ("job", "instance"),
    ),
}


def rule_tests(alert: Alert, case: Case) -> list[dict[str, Any]]:
    """The two tests of an alert, in promtool's form."""
    labels = {name: VALUES[name] for name in case.labels}
    fired = {
        "exp_labels": {"severity": alert.severity, **labels},
        "exp_annotations": {name: filled(text) for name, text in alert.rule()["annotations"].items()},
    }
    return [
        {
            "name": f"{alert.name}: {name}",
            "interval": "1m",
            "input_series": [{"series": each, "values": values} for each, values in series.items()],
            "alert_rule_test": [
                {"eval_time": f"{case.minute}m", "alertname": alert.name, "exp_alerts": expected}
            ],
        }
        for name, series, expected in (("fires", case.fires, [fired]), ("does not", case.quiet, []))
    ]


def filled(text: str) -> str:
    """An annotation with the labels' values."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: VALUES[found[1]], text)


def test_each_alert_fires_and_does_not(tmp_path: Path) -> None:
    """By promtool, on series that are just over the limit and just under it, or over it too briefly."""
    tests = [rule_tests(alert, CASES[alert.name]) for alert in ALERTS]
    path = tmp_path / "rules.test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": list(chain(*tests))}))

    assert "SUCCESS" in promtool("test", "rules", str(path))


def test_promtool_finds_nothing_against_the_rules() -> None:
    """The file of rules, as Prometheus loads it."""
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", str(RULES))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_files_are_what_the_code_generates(path: Path) -> None:
    """If this fails, run `make schemas`."""
    assert path.read_text(encoding="utf-8") == FILES[path]


def test_the_alerts_are_few_and_each_has_a_runbook() -> None:
    """A dozen at most, and the link of each leads to a heading."""
    headings = re.findall(r"^## (\w+)$", (ROOT / RUNBOOKS).read_text(encoding="utf-8"), re.MULTILINE)

    assert len(ALERTS) <= 12
    assert [alert.name for alert in ALERTS] == headings
    assert {alert.rule()["annotations"]["runbook"] for alert in ALERTS} == {
        f"{RUNBOOKS}#{heading.lower()}" for heading in headings
    }


def collected() -> list[Metric]:
    """All families of metrics."""
    return [*ALL.registry.collect(), *FORWARDING.registry.collect()]


def sample_names() -> set[str]:
    """The names of all samples that a worker or a forwarder may show."""
    return {
        name
        for family in collected()
        for suffix in ("", "_total", "_bucket", "_sum", "_count")
        for name in [f"{family.name}{suffix}"]
    }


def named_in(texts: Sequence[str]) -> set[str]:
    """The metrics that queries name."""
    return set(chain.from_iterable(map(_METRIC.findall, texts)))


def test_queries_are_about_metrics_that_exist_and_every_metric_is_shown() -> None:
    """No panel or rule names what nobody has; no metric is without a panel."""
    shown = named_in([query for _, query in queries()])
    families = {family.name for family in collected() if family.name.startswith("learner_")}

    assert shown | named_in([alert.query for alert in ALERTS]) <= sample_names()
    assert {name for name in families if not shown & {name, f"{name}_total", f"{name}_bucket"}} == set()


def test_the_dashboard_asks_the_chosen_replicas_of_the_chosen_source() -> None:
    """A stable uid, variables for source, job and instance with .* for all, and N/A for what is missing."""
    board = dashboard()
    source, *labels = board["templating"]["list"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert board["uid"] == "learner-worker"
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert [(each["name"], each["allValue"], each["includeAll"]) for each in labels] == [
        ("job", ".*", True),
        ("instance", ".*", True),
    ]
    for panel in panels:
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert (defaults["noValue"], defaults["mappings"][0]["options"]["result"]["text"]) == ("N/A", "N/A")
        assert all('job=~"$job", instance=~"$instance"' in target["expr"] for target in panel["targets"])
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert len(panels) == sum(len(row) for _, row in ROWS)


def test_panels_do_not_overlap() -> None:
    """Each cell of the grid belongs to one panel at most."""
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
