"""Experiments by task, and what the advice log says of an answer."""

import hashlib
import json

import msgspec
import pytest

from learner_worker.contract.advice import AdviceRecord, ExperimentArm, decode_advice, encode_advice
from learner_worker.contract.decode import Request
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.domain.metrics import Metrics
from learner_worker.errors import ConfigurationError
from learner_worker.settings import load_settings
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.experiment import Experiment, parse_experiment
from learner_worker.worker.experiment import experiment_of

HALVES = parse_experiment("spring", "classic=0.5, expected-profit=0.5")
BOTH = Advise([CLASSIC, EXPECTED_PROFIT], experiment=HALVES)
NOW = Micros(1_800_000_000_000_000)
AGENT = Agent(AgentId("a"), AgentRow(Metrics(9, 8, 3, 2, 7, 700), 0, 7), {})


def asked(task: str | None = "t-1", **fields: object) -> Request:
    usual = Request(AgentId("a"), 100, "x", task_id=None if task is None else TaskId(task))
    return msgspec.structs.replace(usual, **fields)


def logged(request: Request, *, ready: bool = True) -> AdviceRecord:
    reply = BOTH.answer(request, AGENT)
    return BOTH.record(request, AGENT, reply, now=NOW, has_sums=lambda _: ready)


def test_a_task_has_one_arm_and_the_shares_are_kept() -> None:
    """Of many tasks each arm gets its share; the same task always gets the same one."""
    thirds = parse_experiment("spring", "classic=0.2,expected-profit=0.8")
    arms = [thirds.arm_of(TaskId(f"task-{number}")) for number in range(10_000)]
    assert arms == [thirds.arm_of(TaskId(f"task-{number}")) for number in range(10_000)]
    assert 1_850 < arms.count("classic") < 2_150
    assert set(arms) == {"classic", "expected-profit"}


def test_another_name_draws_anew() -> None:
    """Two experiments with the same shares do not split the tasks alike."""
    other = Experiment("autumn", HALVES.shares)
    tasks = [TaskId(f"task-{number}") for number in range(2_000)]
    same = sum(HALVES.arm_of(task) == other.arm_of(task) for task in tasks)
    assert 900 < same < 1_100


def test_the_split_is_what_the_text_says() -> None:
    """SHA-256 of the name, a line feed and the task id: any program can repeat it, here by its first bit."""
    for number in range(50):
        first = hashlib.sha256(f"spring\ntask-ä-{number}".encode()).digest()[0]
        arm = "classic" if first < 128 else "expected-profit"
        assert HALVES.arm_of(TaskId(f"task-ä-{number}")) == arm


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classic", "'classic' is not a strategy and a share"),
        ("classic=", "'classic=' is not"),
        ("=1", "'=1' is not"),
        ("classic=nan", "is not"),
        ("classic=0,expected-profit=1", "'classic=0' is not"),
        ("classic=0.5,classic=0.5", "'classic' stands twice"),
        ("classic=0.5,expected-profit=0.4", "sum is 0.9, not 1"),
    ],
)
def test_an_experiment_that_is_none_is_refused(text: str, said: str) -> None:
    """With a sentence that says what is wrong."""
    with pytest.raises(ConfigurationError, match=said):
        parse_experiment("spring", text)


def test_a_worker_refuses_an_experiment_that_it_cannot_hold() -> None:
    """A strategy that it lacks, or no log to tell by; without the setting there is none."""
    arms = {"experiment": "classic=0.5,expected-profit=0.5", "advice_log": True}
    both = [CLASSIC, EXPECTED_PROFIT]
    assert experiment_of(load_settings({}), both) is None
    named = load_settings({**arms, "experiment_name": "spring"})
    assert experiment_of(named, both) == HALVES
    with pytest.raises(ConfigurationError, match="no strategy 'expected-profit', only classic"):
        experiment_of(load_settings(arms), [CLASSIC])
    with pytest.raises(ConfigurationError, match="without --advice-log"):
        experiment_of(load_settings({**arms, "advice_log": False}), both)


def test_an_experiment_decides_where_nobody_else_did() -> None:
    """By the task; a request that names its strategy, or no task, is outside of it."""
    tasks = [TaskId(f"task-{number}") for number in range(40)]
    assert [BOTH.answer(asked(task), AGENT).strategy for task in tasks] == [HALVES.arm_of(t) for t in tasks]
    assert {logged(asked(task)).experiment for task in tasks} == {
        ExperimentArm("spring", "classic"),
        ExperimentArm("spring", "expected-profit"),
    }
    outside = asked(tasks[0], strategy="expected-profit")
    assert (logged(outside).strategy, logged(outside).experiment) == ("expected-profit", None)
    assert {BOTH.answer(asked(None), AGENT).strategy for _ in tasks} == {"classic"}


def test_the_log_has_every_alternative_that_is_ready() -> None:
    """What each strategy says; one whose sums are not complete would say something else later."""
    request = asked()
    record = logged(request)
    said = {
        name: Advise([strategy]).answer(request, AGENT).suggested_bid_sats
        for name, strategy in (("classic", CLASSIC), ("expected-profit", EXPECTED_PROFIT))
    }
    assert isinstance(record.alternatives, dict)
    assert {name: one.suggested_bid_sats for name, one in record.alternatives.items()} == said
    unready = logged(request, ready=False)
    assert isinstance(unready.alternatives, dict)
    assert list(unready.alternatives) == ["classic"]


def test_costs_are_never_logged() -> None:
    """Only that there were some, and no alternatives, whose difference would tell."""
    request = asked(strategy="expected-profit", cost_sats=7_654, failure_cost_sats=3_210)
    text = encode_advice(logged(request)).decode()
    assert json.loads(text)["costs"] is True
    assert "alternatives" not in json.loads(text)
    assert "7654" not in text
    assert "3210" not in text
    assert json.loads(encode_advice(logged(asked(failure_cost_sats=3_210))))["costs"] is False


def test_a_record_is_read_as_it_was_written() -> None:
    """With and without alternatives; what is no record, or a newer one, is none."""
    for record in (logged(asked()), logged(asked(strategy="classic", cost_sats=3))):
        value = encode_advice(record)
        assert decode_advice(value) == record
        newer = {**json.loads(value), "v": 2}
        assert decode_advice(json.dumps(newer).encode()) is None
        assert decode_advice(json.dumps({**newer, "v": 1, "advised_at": "today"}).encode()) is None
    assert decode_advice(None) is None
    assert decode_advice(b"\xff{") is None
