"""How each shell and Python block of README and docs is shown to be right: run, or checked with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tests.support.documents import Block


@dataclass(frozen=True, slots=True)
class Run:
    """Runs to its end, and prints what the page shows; `stopped`: after Ctrl-C for what was served."""

    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Serve:
    """Runs until Ctrl-C, in a terminal of its own."""


@dataclass(frozen=True, slots=True)
class Save:
    """Is written into a file."""

    name: str


@dataclass(frozen=True, slots=True)
class Check:
    """Is not run: it has to parse, and name commands, flags and targets that are there."""

    reason: str


Way: TypeAlias = Run | Serve | Save | Check
_INSTALLS = Check("downloads and installs; the suite runs in what it makes")
_SUITE = Check("is the suite, or takes longer than it")
_DOCKER = Check("needs Docker; tests/unit/test_deploy.py checks what it reads")
_KUBERNETES = Check("needs a cluster; tests/unit/test_deploy.py checks what it reads")
_INTEROP = Check("`make interop` runs the same in a complete program, with the client that it needs")
_NAMED = Check("names dead letters of the reader's own; tests/integration/test_dead_letters.py runs both")
_LAB = Check("takes minutes; tests/unit/test_lab_report.py, test_lab_replay.py and test_league.py run them")
_SNAPSHOTS = Check("names a store of the reader's own; tests/integration/test_snapshots.py runs all of them")
_LEAVE = Check("names a folder and a replica; tests/acceptance/test_replicas.py runs all three")
_RESHARD = Check("doubles the topics under a worker; tests/acceptance/test_reshard.py runs all three")
_LEAGUE = Check("tests/integration/test_league.py runs workers with these flags, and asks the league")
_INSIGHTS = Check("tests/integration/test_insights.py starts insights and asks these routes")
_ASKED = Check("tests/integration/test_expected_profit.py asks a worker by the same fields")
WAYS: Mapping[str, Mapping[str, Way]] = {
    "README.md": {
        "git clone": Check("downloads and installs; tests/acceptance/test_demo.py runs the demo"),
        "python3 -m venv": _INSTALLS,
        "noida-db up": Run(),
        "learner-worker run": Serve(),
        "async def main": Run(),
        "learner-worker suggest": Run(),
        "with BlockingLearnerClient": Run(),
    },
    "CONTRIBUTING.md": {"make test": _SUITE},
    "docs/tutorial.md": {
        "git clone": _INSTALLS,
        "noida-db up": Run(),
        "export LEARNER_BOOTSTRAP_SERVERS=localhost:9092": Run(),
        "learner-worker run": Serve(),
        "curl": Run(),
        "learner-worker suggest echo": Run(),
        "TASKS = {": Save("swarm.py"),
        "python swarm.py": Run(),
        "learner-worker outcomes list echo": Run(),
        "rm -r learner-state": Serve(),
        "noida-db down": Run(stopped=True),
    },
    "docs/operating.md": {
        "OTEL_EXPORTER_OTLP_ENDPOINT": Check(
            "serves for ever; tests/integration/test_traces.py runs a worker with these settings"
        ),
        "learner-worker leave": _LEAVE,
        "learner-worker reshard": _RESHARD,
        "learner-worker run --snapshot-url": _SNAPSHOTS,
        "learner-worker state snapshot": _SNAPSHOTS,
        "learner-worker forget": Run(),
        "learner-worker doctor": Run(),
        "learner-worker dead-letters list": Run(),
        "learner-worker dead-letters show": _NAMED,
        "learner-worker outcomes": Run(),
        "learner-worker state show": Run(),
        "learner-worker state verify": Run(),
        "learner-worker state rebuild": Run(stopped=True),
    },
    "docs/insights.md": {
        "learner-worker insights": _INSIGHTS,
        "curl": _INSIGHTS,
        "LEARNER_INSIGHTS_TOKEN": _INSIGHTS,
    },
    "SECURITY.md": {"pipx run pip-audit": Check("asks services on the network")},
    "docs/security.md": {
        "openssl rand": Check("serves for ever; tests/integration/test_identity.py does the same"),
        "learner-worker acls print": Check("tests/acceptance/test_rights.py grants and takes away the same"),
        "kafka-topics.sh": Check("serves for ever; tests/integration/test_identity.py does the same"),
        "kafka-configs.sh": Check("is Kafka's script; tests/programs/chaos/floods.py runs what it starts"),
        "curl": Check("names a provider; tests/integration/test_identity.py runs a worker with such a file"),
        "pip install 'learner-worker[msk]'": Check("needs AWS; tests/unit/test_msk.py makes such a token"),
    },
    "docs/importing.md": {"with sqlite3.connect": Run(), "learner-worker import": Run()},
    "docs/deploying.md": {"docker": _DOCKER, "cp -r deploy/kubernetes/example": _KUBERNETES},
    "docs/strategies.md": {
        "learner-worker lab": _LAB,
        "learner-worker lab league": _LEAGUE,
        "reply = await": _ASKED,
        "learner-worker suggest": _ASKED,
    },
    "docs/own-strategy.md": {
        "class Patient": Save("patient.py"),
        "learner-worker lab simulate": Run(),
        "learner-worker lab replay": _LAB,
        "learner-worker topics create": _LEAGUE,
        "learner-worker run": _LEAGUE,
    },
    "docs/performance.md": {"IMPORT_ROWS": _SUITE, ".venv/bin/python -m tests.programs.bench": _SUITE},
    "docs/interop.md": {
        "async def main": Run(),
        "client = LearnerClient(": Check("names a cluster with a login of the reader's own"),
        "kafka-topics.sh": Check("is Apache Kafka's own script"),
        "broker = KafkaBroker": _INTEROP,
        "producer.produce(": _INTEROP,
    },
}
"""How each block is shown to be right, by its page and how its first line begins."""
READINGS = (
    ("README.md", "docs/interop.md", "docs/operating.md", "docs/importing.md"),
    ("docs/tutorial.md",),
    ("docs/own-strategy.md",),
)
"""Pages that one reader follows, the next one in the scene that the one before has left."""


def line_of(block: Block) -> str | None:
    """The line of its page in `WAYS` for a block: the longest beginning that fits."""
    fitting = [line for line in WAYS.get(block.page, {}) if block.name.startswith(line)]
    return max(fitting, key=len, default=None)


def way_of(block: Block) -> Way:
    """How a block is shown to be right.

    Raises:
        KeyError: it has no line in `WAYS`.
    """
    line = line_of(block)
    if line is None:
        raise KeyError(f"{block.id}: it needs a line in tests/support/blocks.py")
    return WAYS[block.page][line]
