"""`acls print`: the rights that a role needs in Kafka, to paste."""

from typing import Any, cast

import click

from learner_worker.commands.options import TOPICS, given, settings_flags
from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.interface.acls import as_yaml, kafka_acls, kafka_user
from learner_worker.interface.rights import ROLES, Role, rights_of


@click.group()
def acls() -> None:
    """Print the rights in Kafka that workers, agents and others need."""


@acls.command("print")
@click.option("--role", type=click.Choice(list(ROLES)), required=True, help="Whose rights.")
@click.option("--user", metavar="NAME", help="Name of the user in Kafka. [default: learner-ROLE]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["kafka-acls", "strimzi"]),
    default="kafka-acls",
    show_default=True,
    help="Commands of kafka-acls.sh, or a KafkaUser for the Strimzi operator.",
)
@click.option(
    "--layout",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of the layout of topics and groups: each `reshard` makes the next one. For a resharder the "
    "present one: it needs rights in both.",
)
@settings_flags("bootstrap_servers", "group_id", "agent_topic", *TOPICS)
def print_acls(*, role: str, user: str | None, form: str, layout: int, **flags: Any) -> None:
    """Print exactly the rights that a role needs, and no others. Kafka is not asked.

    An agent with a reply topic of its own names it with --topic-replies, one with a request topic of its own
    with --topic-requests.
    """
    work_on_without_stdout()
    settings = given(flags)
    names, agent_topics = settings.topics().named(), settings.agent_topics
    rights = rights_of(cast("Role", role), names, settings.group_id, layout, agent_topics)
    name = user or f"learner-{role}"
    if form == "strimzi":
        click.echo(as_yaml(kafka_user(rights, name)), nl=False)
    else:
        click.echo("\n".join(kafka_acls(rights, f"User:{name}", settings.bootstrap_servers)))
