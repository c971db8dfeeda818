"""The fair queue: agents in turn, the greediest refused first, never more than the limit."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.fields import AgentId
from learner_worker.requests.fair_queue import FairQueue

Item = tuple[str, int]


def test_agents_take_turns() -> None:
    """Three of a, one of b, one of c: b and c need not wait for all of a's."""
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1"):
        assert queue.put(AgentId(item[0]), item) is None
    assert queue.take(4) == ["a1", "b1", "c1", "a2"]
    assert queue.take(4) == ["a3"]
    assert queue.take(4) == []


def test_a_full_queue_refuses_the_greediest_agents_newest() -> None:
    """A flood of a fills the queue; b's request displaces one of a's, never the other way round."""
    queue: FairQueue[str] = FairQueue(3)
    assert [queue.put(AgentId("a"), f"a{n}") for n in range(5)] == [None, None, None, "a3", "a4"]
    assert queue.put(AgentId("b"), "b0") == "a2"
    assert queue.take(9) == ["a0", "b0", "a1"]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans())), st.integers(1, 6))
def test_nothing_is_lost_or_doubled_and_the_limit_holds(moves: list[tuple[str, bool]], limit: int) -> None:
    """Any puts and takes: what was put is taken, displaced or there, in order within its agent."""
    queue: FairQueue[Item] = FairQueue(limit)
    put: list[Item] = []
    out: list[Item] = []
    displaced: list[Item] = []
    for number, (agent, is_put) in enumerate(moves):
        if is_put:
            put.append((agent, number))
            gone = queue.put(AgentId(agent), (agent, number))
            displaced += [] if gone is None else [gone]
        else:
            out += queue.take(1)
        assert len(queue) <= limit
    out += queue.take(len(moves))
    assert len(queue) == 0
    assert Counter(out + displaced) == Counter(put)
    for agent in "abcde":
        mine = [item for item in out if item[0] == agent]
        assert mine == sorted(mine)


@given(st.lists(st.sampled_from("abcd"), min_size=8, max_size=60))
def test_an_agent_within_its_share_is_never_refused(agents: list[str]) -> None:
    """Eight places for four agents: who has at most two waiting loses none."""
    queue: FairQueue[Item] = FairQueue(8)
    queued: Counter[str] = Counter()
    for number, agent in enumerate(agents):
        queued[agent] += 1
        gone = queue.put(AgentId(agent), (agent, number))
        if gone is not None:
            assert queued[gone[0]] > 2
            queued[gone[0]] -= 1
