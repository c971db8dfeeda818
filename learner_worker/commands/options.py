"""The flags that commands share, and the settings made from them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic_core import PydanticUndefined

from learner_worker.commands.printing import moment
from learner_worker.contract.times import Micros
from learner_worker.setting_sources import choices
from learner_worker.settings import Settings, load_settings

CONNECTION = (
    "bootstrap_servers",
    "client_id",
    "security_protocol",
    "sasl_mechanism",
    "sasl_username",
    "sasl_password",
    "sasl_password_file",
    "sasl_oauth_token_url",
    "sasl_oauth_client_id",
    "sasl_oauth_client_secret_file",
    "sasl_oauth_scope",
    "sasl_oauth_provider",
    "ssl_cafile",
    "ssl_certfile",
    "ssl_keyfile",
    "startup_timeout_seconds",
)
"""The settings of the connection to Kafka."""
TOPICS = (*(name for name in Settings.model_fields if name.startswith("topic_")), "advice_log")
"""The settings of the topics."""
OF_OTHERS = frozenset({"agent_topic", "worker_url"})
"""The settings of other commands, which no worker reads."""
_REPEATABLE = frozenset({"agent_topic", "worker_url"})
"""The settings whose flags may be given more than once."""
_Command = Callable[..., Any]


def settings_flags(*names: str) -> Callable[[_Command], _Command]:
    """Flags for settings, with their descriptions, defaults and environment variables as help."""

    def decorate(command: _Command) -> _Command:
        for name in reversed(names):
            field = Settings.model_fields[name]
            flag = name.replace("_", "-")
            shown = "" if field.default in {None, PydanticUndefined, ""} else f" [default: {field.default}]"
            help_text = f"{field.description}{shown} [env: LEARNER_{name.upper()}]"
            if field.annotation is bool:
                option = click.option(f"--{flag}/--no-{flag}", name, default=None, help=help_text)
            else:
                shape = "|".join(choices(field.annotation)) or "VALUE"
                option = click.option(
                    f"--{flag}", name, metavar=shape, multiple=name in _REPEATABLE, help=help_text
                )
            command = option(command)
        return command

    return decorate


TOKEN_FILE = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="LEARNER_TOKEN_FILE",
    show_envvar=True,
    help="File with the token that proves who asks.",
)
"""The flag of commands that ask the learner."""


def moment_flag(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Micros | None:
    """The callback of a flag whose value is a time or an age."""
    try:
        return None if text is None else moment(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is neither a time as 2026-01-31T12:00:00Z nor an age as 90s, 2h, 7d"
        ) from error


def given(flags: dict[str, Any]) -> Settings:
    """The settings, from the given flags and all other sources.

    Raises:
        ConfigurationError: a value is not allowed.
    """
    return load_settings({name: value for name, value in flags.items() if value not in {None, ()}})


def client_options(settings: Settings) -> dict[str, Any]:
    """The client library's options to reach Kafka, besides its address."""
    shared = settings.connection().options()
    return {name: value for name, value in shared.items() if name not in {"bootstrap_servers", "client_id"}}


def arguments_of(flags: Mapping[str, Any]) -> list[str]:
    """The command line that gives these flags to another process."""
    arguments = []
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            arguments.append(f"--{flag}={value}")
    return arguments
