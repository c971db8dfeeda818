"""How many questions a second one worker answers in time, and what an answer takes of the processors."""

from typing import NamedTuple

from tests.programs.bench.answers_idle import asking, running_echo, warm_up_broker
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import AGENTS, preload_changelog
from tests.programs.bench.processor import used_by
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, in_turns, last_words, said_ready

SECTION = "answers-most"
OUTCOMES = 100_000
LIMIT_MS = 25.0
SECONDS = 5.0
GOAL = Goal(Better.MORE, 0.5, 0.8)
COSTED_RATE = 6_000
_MICROS = 1_000_000  # microseconds in a second


class Cost(NamedTuple):
    """Processor time of an answer, in µs: of who answers, of the broker, and of the client that asks."""

    answering: float
    broker: float
    asking: float


class Most(NamedTuple):
    """One turn of one side: the highest rate that holds, and the cost of an answer at a moderate one."""

    rate: float
    cost: Cost


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    setting = await stage.new_topics("most")
    state_dir = stage.new_folder("state")
    outcomes = stage.scaled(OUTCOMES)
    await preload_changelog(stage.servers, setting.names.outcomes, outcomes)
    await warm_up_broker(stage, setting)
    seconds = max(2.0, SECONDS * min(1.0, stage.scale))

    async def ours() -> Most:
        async with stage.worker(setting, state_dir) as worker:
            most = await _most(stage, setting, "worker", worker.process.pid, seconds)
            await worker.stop()
        return most

    async def echo() -> Most:
        async with running_echo(stage, setting) as echo:
            await said_ready(echo)
            most = await _most(stage, setting, "echo", echo.pid, seconds)
            await last_words(echo)
        return most

    mine, raw = await in_turns(stage.turns, ours, echo)
    sizes = {"seconds_a_step": seconds, "outcomes": outcomes, "agents": AGENTS, "partitions": PARTITIONS}
    return [
        Figure(
            SECTION,
            f"answers with p99 within {LIMIT_MS:g} ms",
            "/s",
            reading([most.rate for most in mine]),
            reading([most.rate for most in raw]),
            "raw: echo, the same search; 0 where the lowest rate fails",
            GOAL,
            sizes,
            notes=[
                "open loop: a request is due whether or not the last is answered; nothing may be refused",
                "a rate counts if one of two tries holds",
            ],
        ),
        Figure(
            SECTION,
            f"processor time of an answer at {COSTED_RATE:,} a second",
            "µs",
            reading([most.cost.answering for most in mine]),
            reading([most.cost.answering for most in raw]),
            "raw: echo, clients and sockets included",
            notes=[_of_others("worker", mine), _of_others("echo", raw)],
        ),
    ]


def _of_others(who: str, turns: list[Most]) -> str:
    broker = reading([most.cost.broker for most in turns]).median
    client = reading([most.cost.asking for most in turns]).median
    return f"beside the {who} an answer takes {broker:.0f} µs of the broker, {client:.0f} of the client"


async def _most(stage: Stage, setting: Setting, who: str, pid: int, seconds: float) -> Most:
    said = await asking(stage, setting, "most", limit_ms=LIMIT_MS, seconds=seconds)
    tried = ", ".join(
        f"{step['rate']:.0f}/s {step['p99_ms']:.1f} ms, {step['missing']} missing" for step in said["steps"]
    )
    cost = await _cost(stage, setting, pid, seconds)
    shown = ", ".join(f"{name} {micros:.1f}" for name, micros in cost._asdict().items())
    stage.say(f"{who}: {said['rate']:.0f}/s ({tried}); µs an answer: {shown}")
    return Most(float(said["rate"]), cost)


async def _cost(stage: Stage, setting: Setting, pid: int, seconds: float) -> Cost:
    before = used_by([pid], stage.broker_pids)
    said = await asking(stage, setting, "steady", rate=COSTED_RATE, seconds=seconds, warm_up_seconds=0.0)
    used = before.until(used_by([pid], stage.broker_pids))
    answers = COSTED_RATE * seconds
    seconds_each = (used.loops + used.others, used.broker, said["processor_seconds"])
    return Cost(*(each / answers * _MICROS for each in seconds_each))
