"""Scaling 3-1-3 and a rolling restart under load: what a stop costs that keeps the membership or leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from learner_worker.brokers import KafkaCluster
from tests.programs.chaos.scene import REPLICAS, Plan, Scene, running_scene
from tests.programs.chaos.table import Row, row_of
from tests.support.workers import until

_SESSION_SECONDS = 30.0  # that of the Kubernetes base
_AWAY_SECONDS = 10.0  # a pod is stopped, scheduled again and gets its volume
_DEADLINE_SECONDS = 3.0  # an agent bids its own base when it has waited so long
_SHARED_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Way:
    """How replicas stop."""

    name: str
    standby_replicas: int
    leave: bool

    def plan(self, plan: Plan) -> Plan:
        """The usual scene, with the session and the settings of this way."""
        flags = {
            "--standby-replicas": str(self.standby_replicas),
            "--leave-group-on-stop": str(self.leave).lower(),
        }
        return Plan(
            partitions=12,
            events_a_second=100.0,
            seed=plan.seed,
            session_timeout_seconds=_SESSION_SECONDS,
            deadline_seconds=_DEADLINE_SECONDS,
            settings={**plan.settings, **flags},
        )


WAYS = (
    Way("keeping the membership, no standby", 0, leave=False),
    Way("keeping the membership, 1 standby", 1, leave=False),
    Way("leaving the group, 1 standby", 1, leave=True),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step cost: requests past their deadline, of all in it; the worst shard's silence."""

    step: str
    late: int
    asked: int
    silent_seconds: float

    def __str__(self) -> str:
        late = f"{self.late} of {self.asked} past their deadline"
        return f"{self.step}: {late}, silent {self.silent_seconds:.1f} s"


def rows(plan: Plan, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """A row for each way."""
    return [
        asyncio.run(_measured(way, plan, folder / f"stops-{number}", say)) for number, way in enumerate(WAYS)
    ]


async def _measured(way: Way, plan: Plan, folder: Path, say: Callable[[str], None]) -> Row:
    """One way on a cluster of its own: the steps' costs, and the usual judgement."""
    with KafkaCluster(folder / "kafka") as kafka:
        async with running_scene(kafka, folder, way.plan(plan), say=say) as scene:
            costs = [
                await _cost(scene, "3 to 1 replicas", _scale_down),
                await _cost(scene, "1 to 3 replicas", _scale_up),
                await _cost(scene, "rolling restart", _restart),
            ]
            report = await scene.report()
    return row_of(f"stops: {way.name}", len(costs), report, *map(str, costs))


async def _cost(scene: Scene, step: str, run: Callable[[Scene], Awaitable[None]]) -> Cost:
    async with scene.fault(step):
        await run(scene)
    await asyncio.sleep(_DEADLINE_SECONDS)  # the last requests of the step are over
    window = scene.windows[-1]
    asked = [one for one in scene.prober.asked.values() if window.began <= one.asked_at <= window.ended]
    late = sum(one.delivered and not one.in_time for one in asked)
    return Cost(step, late, len(asked), window.silent_seconds)


async def _scale_down(scene: Scene) -> None:
    assert await asyncio.gather(*(scene.replicas.stop(name) for name in REPLICAS[1:])) == [0, 0]
    await _shared_by(scene, 1)


async def _scale_up(scene: Scene) -> None:
    await scene.replicas.start(*REPLICAS[1:])
    await _shared_by(scene, len(REPLICAS))


async def _restart(scene: Scene) -> None:
    for name in reversed(REPLICAS):
        assert await scene.replicas.stop(name) == 0
        await asyncio.sleep(_AWAY_SECONDS)
        await scene.replicas.start(name)
        await _shared_by(scene, len(REPLICAS))
        await scene.replicas.settled()


async def _shared_by(scene: Scene, count: int) -> None:
    async def each_has_some() -> bool:
        shares = [replica.shards for replica in scene.replicas.running]
        whole = sorted(shard for share in shares for shard in share) == list(range(scene.plan.partitions))
        return len(shares) == count and all(shares) and whole

    await until(each_has_some, f"{count} replicas share the shards", seconds=_SHARED_SECONDS)
