"""docs/reference.md: every command, setting and metric, from the code. Run, it writes the page."""

import inspect
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from learner_worker.cli import cli
from learner_worker.commands.options import CONNECTION, OF_OTHERS, TOPICS
from learner_worker.contract.topics import Topics, forwarding_group, requests_group
from learner_worker.interface.rights import (
    AGENT_TOPICS,
    FORWARDING_GROUP,
    GROUP,
    REQUESTS_GROUP,
    ROLES,
    TABLE,
    RightNeeded,
)
from learner_worker.observability import ForwardingInstruments, Instruments
from learner_worker.setting_sources import SETTINGS_PREFIX
from learner_worker.settings import Settings

PAGE: Final = Path(__file__).parents[2] / "docs/reference.md"
_WIDTH = 100
_HEAD = """\
<!-- Written by `make schemas` from the code: do not edit. -->

# Reference

Every [command](#commands), [setting](#settings) and [Prometheus metric](#prometheus-metrics), and the
[rights](#rights-in-kafka) that they need. How to use them: [operating.md](operating.md).
"""
_PLACES = """
In falling order of weight: a flag, the environment, a line in `.env`, a line in `learner-worker.toml` in the
working folder, the default. A flag `--group-id` is `LEARNER_GROUP_ID` in the environment and in `.env`, and
`group_id` in the TOML file. Durations are in seconds. An empty variable counts as unset. A `LEARNER_`
variable or a key that no setting has refuses the start.
"""


_RIGHTS = """
`learner-worker acls print --role ROLE` prints them for your names, as commands of `kafka-acls.sh` or as a
Strimzi `KafkaUser`. Read, Write, Delete and Alter imply Describe. `GROUP` is `--group-id`; a name with `*`
stands for all that begin so, one with `.layoutN` for the same in the layout to come.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_commands(), *_settings(), *_metrics(), *_rights()]) + "\n"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "`learner-worker COMMAND`, or `python -m learner_worker COMMAND`. Exit codes, unless a command says"
    yield "otherwise: 0 done, 1 a failure, 2 a mistake in what was asked or configured.\n"
    for path, command in _leaves(cli, ("learner-worker",)):
        yield f"### {' '.join(path)}\n"
        yield f"```text\n{_usage(path, command)}\n```\n"
        yield f"{_paragraphs(command.help or '')}\n"
        options = [option for option in command.params if isinstance(option, click.Option)]
        own = [option for option in options if not option.hidden and not _is_setting(option)]
        if own:
            rows = ((f"`{', '.join(option.opts)}`", _described(option)) for option in own)
            yield from _table(("option", "meaning"), rows)
        if taken := {str(option.name) for option in options if _is_setting(option)}:
            yield f"{_taken(taken)}\n"


def _is_setting(option: click.Option) -> bool:
    """Whether the option is a setting's flag; a command may have one of its own by that name."""
    field = Settings.model_fields.get(str(option.name))
    return field is not None and (option.help or "").startswith(field.description or "")


def _leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in sorted(command.list_commands(context)):
        if (found := command.get_command(context, name)) is not None:
            yield from _leaves(found, (*path, name))


def _usage(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    return " ".join([" ".join(path), *command.collect_usage_pieces(context)])


def _described(option: click.Option) -> str:
    default = option.default
    shown = "" if default in {None, False} or not isinstance(default, int | float | str) else f" [{default}]"
    return f"{option.help or ''}{shown}"


def _taken(names: set[str]) -> str:
    if names == Settings.model_fields.keys() - OF_OTHERS:
        others = ", ".join(f"`--{name.replace('_', '-')}`" for name in sorted(OF_OTHERS))
        return f"Takes every [setting](#settings) but {others}."
    groups = {"how to reach Kafka": set(CONNECTION), "the names of topics": set(TOPICS)}
    whole = [title for title, members in groups.items() if members <= names]
    rest = sorted(names - set().union(*(groups[title] for title in whole)))
    listed = [*whole, *(f"`--{name.replace('_', '-')}`" for name in rest)]
    return _paragraphs(f"Takes these [settings](#settings): {', '.join(listed)}.")


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield f"{_paragraphs(_PLACES)}\n"
    rows = (
        (
            f"`--{name.replace('_', '-')}`",
            f"`{SETTINGS_PREFIX}{name.upper()}`",
            _default(field),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    )
    yield from _table(("flag", "environment", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined or field.default is None:
        return "none"
    return f"`{field.default}`" if str(field.default) else "empty"


def _metrics() -> Iterator[str]:
    yield "## Prometheus metrics\n"
    yield "Served at `/metrics`, with `process_*` and `python_info` of Prometheus' client library.\n"
    registries = (Instruments().registry, ForwardingInstruments().registry)
    collected = (family for registry in registries for family in registry.collect())
    families = sorted(collected, key=lambda family: family.name)
    rows = (
        (f"`{family.name}{'_total' if family.type == 'counter' else ''}`", family.type, family.documentation)
        for family in families
        if family.name.startswith("learner_")
    )
    yield from _table(("metric", "type", "meaning"), rows)


def _rights() -> Iterator[str]:
    yield "## Rights in Kafka\n"
    yield f"{_paragraphs(_RIGHTS)}\n"
    for role, who in ROLES.items():
        yield f"**{role}**: {who}.\n"
        rows = (
            (f"`{_resource(row)}`", row.kind, ", ".join(row.operations), f"`{row.use}`")
            for row in TABLE
            if row.role == role
        )
        yield from _table(("resource", "kind", "operations", "for"), rows)


def _resource(row: RightNeeded) -> str:
    layout = ".layoutN" if row.to_come else ""
    group = f"GROUP{layout}"
    named = {
        GROUP: group,
        REQUESTS_GROUP: requests_group(group),
        FORWARDING_GROUP: forwarding_group(group),
        AGENT_TOPICS: "--agent-topic",
    }
    name = named.get(row.resource)
    topic = getattr(Topics(advice_log=True).named(), row.resource, row.resource)
    return name or f"{topic}{layout}{'*' if row.prefixed else ''}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _line(head)
    yield _line("---" for _ in head)
    yield from map(_line, rows)
    yield ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _paragraphs(text: str) -> str:
    """Click's help text, wrapped anew."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        textwrap.fill(" ".join(part.split()), _WIDTH, break_on_hyphens=False) for part in paragraphs
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
