"""The strongest keywords, kept incrementally: the same answer as sorting all of them, without the work."""

import random
import time

import pytest

from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent, AgentRow, count_words
from learner_worker.domain.keywords import TOP, StrongestKeywords, Tally, in_order, strongest
from learner_worker.domain.metrics import Change, Metrics


@pytest.mark.parametrize("words", [5, 60, 1_500, 6_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_changes_leave_the_answer_of_a_full_sort(words: int, seed: int) -> None:
    """Tallies that grow, shrink, change sign, come and go: equal to sorting all keywords, ties included."""
    chance = random.Random(seed)
    tallies: dict[str, Tally] = {}
    kept = StrongestKeywords(tallies)
    spread = chance.choice([1, 3, 40])
    for turn in range(60):
        for _ in range(words // 6):
            word = f"word{chance.randrange(words)}"
            if chance.random() < (0.9 if turn % 20 > 15 else 0.2):
                tallies.pop(word, None)
            else:
                tallies[word] = Tally(chance.randrange(spread + 1), chance.randrange(spread + 1))
            kept.note(word)
        assert kept.strongest() == strongest(tallies)
        assert kept.strongest_and_top()[1] == in_order(tallies.items())[:TOP]


@pytest.mark.parametrize("words", [200, 2_500])
def test_the_first_keywords_are_found_behind_any_number_of_strong_failures(words: int) -> None:
    """Nearly all keywords are failures, stronger than any win: the first are still those of a full sort."""
    chance = random.Random(words)
    tallies = {f"bad{number}": Tally(0, 50 + number % 7) for number in range(words)}
    tallies |= {f"good{number}": Tally(number % 3, 0) for number in range(30)}
    kept = StrongestKeywords(tallies)
    for _ in range(200):
        word = f"good{chance.randrange(30)}"
        tallies[word] = Tally(chance.randrange(4), chance.randrange(2))
        kept.note(word)
        assert kept.strongest_and_top()[1] == in_order(tallies.items())[:TOP]
    assert kept.strongest() == strongest(tallies)


@pytest.mark.parametrize("seed", range(4))
def test_keywords_may_change_while_all_are_looked_at(seed: int) -> None:
    """Between any two slices some grow, shrink, come and go, as by facts: in the end as a full sort."""
    chance = random.Random(seed)
    agent = Agent(AgentId("a"), AgentRow(), {f"word{n}": Tally(1 + n % 5, n % 3) for n in range(15_000)})
    tallies = agent.tallies_to_change()
    for _ in agent.strongest.collected():
        for _ in range(600):
            word = f"word{chance.randrange(18_000)}"
            if chance.random() < 0.3:
                tallies.pop(word, None)
            else:
                tallies[word] = Tally(chance.randrange(8), chance.randrange(8))
            agent.strongest.note(word)
        if chance.random() < 0.2:  # somebody asks meanwhile
            assert agent.strongest.strongest() == strongest(tallies)
    assert agent.is_ready
    assert agent.strongest.strongest() == strongest(tallies)
    assert agent.strongest.strongest_and_top()[1] == in_order(tallies.items())[:TOP]


def test_half_a_million_keywords_stall_nothing() -> None:
    """An ask and a metrics record after each outcome: the work does not grow with the agent's history."""
    names = [f"w{number}" for number in range(500_000)]
    agent = Agent(AgentId("a"), AgentRow(), {name: Tally(1, 0) for name in names})
    slices = [0.0]
    began = time.process_time()
    for _ in agent.strongest.collected():
        slices.append(time.process_time() - began)
        began = time.process_time()
    durations = []
    for turn in range(20):
        difference = Change(Metrics(), dict.fromkeys(names[turn * 3_270 : (turn + 1) * 3_270], 1), {})
        began = time.process_time()
        for _ in count_words(agent, difference):
            pass
        agent.learned_keywords()
        durations.append(time.process_time() - began)
    assert agent.strongest.strongest() == strongest(agent.tallies)
    assert sorted(slices)[len(slices) // 2] < 0.025
    assert sorted(durations)[len(durations) // 2] < 0.025
