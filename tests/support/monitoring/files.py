"""The generated files of deploy/: where each stands, and what is in it."""

import json
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.monitoring.alerts import groups
from tests.support.monitoring.dashboard import dashboard

DEPLOY: Final = Path(__file__).parents[3] / "deploy"
RULES: Final = DEPLOY / "prometheus/rules.yaml"
DASHBOARD: Final = DEPLOY / "kubernetes/monitoring/dashboard.json"
PROMETHEUS_RULE: Final = DEPLOY / "kubernetes/monitoring/prometheusrule.yaml"
_WIDTH: Final = 100
_HEAD: Final = "# Written by `make schemas` from the code: do not edit.\n"


def _yaml(content: dict[str, Any]) -> str:
    return _HEAD + yaml.safe_dump(content, sort_keys=False, width=_WIDTH)


FILES: Final[dict[Path, str]] = {
    RULES: _yaml(groups()),
    PROMETHEUS_RULE: _yaml(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "learner-worker"},
            "spec": groups(),
        }
    ),
    DASHBOARD: json.dumps(dashboard(), indent=1) + "\n",
}
