"""Which brokers the suite runs on, and a running broker of each kind."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
import structlog

from learner_worker.brokers import Broker, BrokerKind, available_brokers, description, running_broker, why_not
from tests.support import prometheus
from tests.support.secured import SecuredKafka, secured_kafka

AUTO = "auto"

# Brokers live for minutes here: compiling their code well takes longer than it saves.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")


@dataclass(frozen=True, slots=True)
class Choice:
    """What `--brokers` asked for; `absent` says why for every kind that is not here."""

    given: str | None
    kinds: list[BrokerKind]
    absent: list[str]


@dataclass(slots=True)
class BrokerPool:
    """Every broker of the session: started when first asked for, stopped at the end."""

    given: str | None
    stack: ExitStack
    running: dict[BrokerKind, Broker] = field(default_factory=dict)

    def broker(self, kind: BrokerKind) -> Broker:
        if kind not in self.running:
            self.running[kind] = self.stack.enter_context(running_broker(kind, given=self.given))
        return self.running[kind]


CHOICE = pytest.StashKey[Choice]()
USED = pytest.StashKey[list[BrokerKind]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--brokers",
        default=AUTO,
        metavar="KINDS",
        help="what the tests run against: auto (embedded, plus Apache Kafka by Java and Maven or by Docker if"
        " there, plus LEARNER_BOOTSTRAP_SERVERS if set), or some of embedded,kafka,docker,given",
    )


def pytest_configure(config: pytest.Config) -> None:
    # `nohup make test`, `make test &`: what tests start would ignore these signals, too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("JDK_JAVA_OPTIONS", QUICK_JAVA)
    given = os.environ.get("LEARNER_BOOTSTRAP_SERVERS")
    asked = str(config.getoption("--brokers"))
    config.stash[CHOICE] = _automatic_choice(given) if asked == AUTO else _named_choice(asked, given)
    config.stash[USED] = []


def _automatic_choice(given: str | None) -> Choice:
    available = available_brokers(given)
    kafkas = [kind for kind in (BrokerKind.KAFKA, BrokerKind.DOCKER) if kind in available]
    wanted = [BrokerKind.EMBEDDED, *kafkas[:1], BrokerKind.GIVEN]
    absent = [why_not(kind) for kind in BrokerKind if kind not in available]
    return Choice(given, [kind for kind in wanted if kind in available], absent + _absent_programs())


def _named_choice(asked: str, given: str | None) -> Choice:
    names = list(dict.fromkeys(name.strip() for name in asked.split(",")))
    unknown = [name for name in names if name not in set(BrokerKind)]
    if unknown:
        raise pytest.UsageError(f"--brokers: {unknown[0]!r} is none of auto, {', '.join(BrokerKind)}")
    kinds = [BrokerKind(name) for name in names]
    missing = [kind for kind in kinds if kind not in available_brokers(given)]
    if missing:
        raise pytest.UsageError("--brokers: " + " ".join(why_not(kind) for kind in missing))
    return Choice(given, kinds, _absent_programs())


def _absent_programs() -> list[str]:
    return [] if prometheus.found("promtool") else [prometheus.ABSENT]


def pytest_report_header(config: pytest.Config) -> list[str]:
    choice = config.stash[CHOICE]
    return [
        f"brokers: {_names(choice, choice.kinds)}",
        *(f"not here: {sentence}" for sentence in choice.absent),
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    choice = config.stash[CHOICE]
    used = config.stash[USED]
    terminalreporter.write_line(f"brokers used: {_names(choice, sorted(set(used), key=used.index))}")
    for sentence in choice.absent:
        terminalreporter.write_line(f"not here: {sentence}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several tells the one that prints the summary which brokers its tests ran on."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["brokers"] = [str(kind) for kind in session.config.stash[USED]]


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any) -> None:
    """Takes them; a process that crashed has said nothing."""
    brokers = getattr(node, "workeroutput", {}).get("brokers", ())
    used = node.config.stash[USED]
    used.extend(kind for kind in map(BrokerKind, brokers) if kind not in used)


def _names(choice: Choice, kinds: list[BrokerKind]) -> str:
    return "; ".join(description(kind, choice.given) for kind in kinds) or "none"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = metafunc.config.stash[CHOICE].kinds
    if metafunc.definition.get_closest_marker("own_kafka"):
        kinds = [kind for kind in kinds if kind is BrokerKind.KAFKA]
    if "broker" in metafunc.fixturenames:
        if not metafunc.config.stash[CHOICE].kinds:
            raise pytest.UsageError("These tests need a broker. " + " ".join(map(why_not, BrokerKind)))
        metafunc.parametrize("broker", kinds, ids=str, indirect=True, scope="module")
    if "started_kind" in metafunc.fixturenames:
        started = [kind for kind in kinds if kind is not BrokerKind.GIVEN]
        metafunc.parametrize("started_kind", started, ids=str)


@pytest.fixture(scope="session")
def broker_pool(pytestconfig: pytest.Config) -> Iterator[BrokerPool]:
    """The session's brokers. Not parametrised: several may run side by side, none is ever restarted."""
    with ExitStack() as stack:
        pool = BrokerPool(pytestconfig.stash[CHOICE].given, stack)
        yield pool
        pytestconfig.stash[USED].extend(pool.running)


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, broker_pool: BrokerPool) -> Iterator[Broker]:
    """A running broker; a test that takes it runs once on each of the suite's brokers.

    The embedded one is started anew for every module: it starts at once, and the more topics it has the
    longer each new one takes.
    """
    if request.param is not BrokerKind.EMBEDDED:
        yield broker_pool.broker(request.param)
        return
    request.config.stash[USED].append(request.param)
    with running_broker(request.param) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def broker_kinds(pytestconfig: pytest.Config) -> frozenset[BrokerKind]:
    """The kinds this run of the suite was given."""
    return frozenset(pytestconfig.stash[CHOICE].kinds)


@pytest.fixture(autouse=True)
def logging_as_at_the_start() -> Iterator[None]:
    """A command that a test runs in its process configures logging: the next test starts without that."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def prefix() -> str:
    """A topic prefix of the test's own: brokers are shared, topics are not."""
    return f"t{secrets.token_hex(3)}-"


@pytest.fixture(scope="session")
def secured(
    tmp_path_factory: pytest.TempPathFactory, broker_kinds: frozenset[BrokerKind]
) -> Iterator[SecuredKafka]:
    """One Apache Kafka with TLS, logins and rights, for every test that needs one; none is ever restarted."""
    if BrokerKind.KAFKA not in broker_kinds:
        pytest.skip("Apache Kafka by Maven and Java is not among the brokers of this run")
    with secured_kafka(tmp_path_factory.mktemp("secured")) as kafka:
        yield kafka
