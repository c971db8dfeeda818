"""`token issue`: tokens for a swarm without an identity provider."""

import time
from pathlib import Path
from typing import Any

import click

from learner_worker.commands.options import given, settings_flags
from learner_worker.commands.printing import seconds_of
from learner_worker.errors import ConfigurationError
from learner_worker.identity.issuing import issued
from learner_worker.identity.key_files import read_keys
from learner_worker.identity.keys import keys_of_secrets


def _lifetime(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no duration as 90s, 15m, 12h, 30d") from error


@click.group()
def token() -> None:
    """Issue the tokens by which agents prove who they are (`run --identity`)."""


@token.command()
@click.argument("agents", metavar="[AGENT]...", nargs=-1)
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    help="Also for every agent whose id begins with this, for a service that asks for many; * = all agents.",
)
@click.option(
    "--expires", default="30d", show_default=True, callback=_lifetime, help="Lifetime: 90s, 15m, 12h, 30d."
)
@settings_flags("identity_secret_file", "identity_audience", "identity_issuer")
def issue(*, agents: tuple[str, ...], prefixes: tuple[str, ...], expires: int, **flags: Any) -> None:
    """Print a token for AGENT, signed with the first secret in --identity-secret-file.

    Whoever has the token can ask as AGENT until it expires; before that, only another secret ends it.
    """
    settings = given(flags)
    now = int(time.time())
    text = issued(
        read_keys(_secret_file(settings.identity_secret_file), keys_of_secrets)[0],
        agents=agents,
        prefixes=prefixes,
        audience=settings.identity_audience,
        issuer=settings.identity_issuer,
        now=now,
        expires=now + expires,
    )
    click.echo(text)


def _secret_file(path: Path | None) -> Path:
    if path is None:
        raise ConfigurationError(
            "a token needs a secret: make one with `openssl rand -hex 32 > FILE`, and name it with "
            "--identity-secret-file (LEARNER_IDENTITY_SECRET_FILE), here and for the workers"
        )
    return path
