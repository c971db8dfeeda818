"""The table of rights: what is printed of it, and that nothing else is needed or granted."""

from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from learner_worker.cli import cli
from learner_worker.contract.topics import Topics
from learner_worker.interface.acls import as_yaml, kafka_acls, kafka_user
from learner_worker.interface.rights import ROLES, TABLE, rights_of
from learner_worker.kafka.rights import OPERATIONS, needed_rights

NAMES = Topics(prefix="p-", advice_log=True).named()


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["acls", "print", *arguments])
    assert result.exit_code == 0
    return result.output


def test_an_agent_gets_two_rights() -> None:
    """It writes requests and reads its replies, and nothing else."""
    agent = printed("--role", "agent", "--user", "an agent", "--topic-replies", "replies.echo")

    assert agent == (
        "kafka-acls.sh --bootstrap-server localhost:9092 --add --allow-principal 'User:an agent' "
        "--operation Write --topic suggest-bid-requests\n"
        "kafka-acls.sh --bootstrap-server localhost:9092 --add --allow-principal 'User:an agent' "
        "--operation Read --topic replies.echo\n"
    )


def test_an_agent_with_a_request_topic_of_its_own_may_not_write_the_shared_one() -> None:
    """Its own topic takes the place of the shared one; only the forwarder writes both ways."""
    own = "suggest-bid-requests.echo"
    agent = printed("--role", "agent", "--topic-requests", own)
    forwarder = printed("--role", "forwarder", "--agent-topic", f"{own}=echo", "--agent-topic", f"{own}=e-*")
    granted = [
        line.partition("'User:")[2].partition("--")[2] or line.rpartition("-forwarder ")[2]
        for line in forwarder.splitlines()
    ]

    assert [line.rpartition(" --operation ")[2] for line in agent.splitlines()] == [
        f"Write --topic {own}",
        "Read --topic suggest-bid-replies",
    ]
    assert granted == [
        f"--operation Read --topic {own}",
        "--operation Write --topic suggest-bid-requests",
        "--operation Read --group learner-worker.forwarded-requests",
    ]


@pytest.mark.parametrize("role", ROLES)
def test_a_kafka_user_has_the_same_rights_as_the_commands(role: Any) -> None:
    """Both forms of every role; the YAML is what a parser reads."""
    rights = rights_of(role, NAMES, "g")
    user = yaml.safe_load(as_yaml(kafka_user(rights, "me")))
    acls = user["spec"]["authorization"]["acls"]
    lines = list(kafka_acls(rights, "User:me", "k:1"))

    assert (user["kind"], user["metadata"]["name"], len(acls)) == ("KafkaUser", "me", len(lines))
    for acl, line in zip(acls, lines, strict=True):
        assert all(f"--operation {operation}" in line for operation in acl["operations"])
        assert acl["resource"].get("name", "--cluster") in line
        assert (acl["resource"].get("patternType") == "prefix") == ("prefixed" in line)


def test_a_worker_is_asked_for_the_rights_that_are_printed_for_it() -> None:
    """The check at the start and doctor's are by the same table."""
    granted = {
        (operation, right.kind, right.name)
        for right in rights_of("worker", NAMES, "g")
        for operation in right.operations
    }

    assert set(needed_rights(NAMES, "g")) == granted
    assert ("Write", "topic", "p-learner-advice") in granted
    assert ("Write", "topic", "p-bid-placed") not in granted


@pytest.mark.parametrize("advice_log", [False, True])
def test_insights_may_look_whether_there_is_an_advice_log(*, advice_log: bool) -> None:
    """Whatever their own settings say: Kafka tells only who has a right to it."""
    rights = rights_of("insights", Topics(advice_log=advice_log).named(), "g")

    assert [right.operations for right in rights if right.name == "learner-advice"] == [["Read"]]


def test_every_line_of_the_table_is_about_something() -> None:
    """A resource that no role would be granted is a misspelt one; an operation has Kafka's code."""
    for row in TABLE:
        names = {right.name for right in rights_of(row.role, NAMES, "g", agent_topics=["own"])}
        others = {"own", "g", "g.requests", "g.forwarded-requests", "kafka-cluster"}
        assert names & {getattr(NAMES, row.resource, ""), *NAMES.all, *others}
        assert set(row.operations) <= OPERATIONS.keys()
