"""Every setting of the worker: read here and nowhere else.

From, in falling order of weight: a flag, the environment (`LEARNER_...`), a `.env` file and
`learner-worker.toml` in the working folder, the default.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from aiokafka.helpers import create_ssl_context
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from learner_worker.contract.topics import Topics
from learner_worker.errors import ConfigurationError
from learner_worker.kafka.connection import Connection
from learner_worker.observability import LogFormat, LogLevel

SETTINGS_PREFIX = "LEARNER_"
_LAST_PORT = 65_535


def _none(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "none" else value


def _listed(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _reachable(value: str) -> str:
    for address in value.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
            raise ValueError(f"{address!r} is no host:port")
    return value


Port = Annotated[int | None, Field(ge=0, le=_LAST_PORT), BeforeValidator(_none)]
Retention = Annotated[float | None, Field(gt=0), BeforeValidator(_none)]
Names = Annotated[list[str] | None, NoDecode, BeforeValidator(_listed)]
TopicSetting = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,200}$")]


class Settings(BaseSettings):
    """The worker's settings; durations in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=SETTINGS_PREFIX, env_file=".env", toml_file="learner-worker.toml", extra="ignore"
    )

    bootstrap_servers: Annotated[str, AfterValidator(_reachable)] = Field(
        "localhost:9092", description="Kafka's address: host:port, or several of them, comma-separated."
    )
    client_id: str = Field("learner-worker", description="How Kafka's logs name this process.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to talk to Kafka."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="How to log in, with a SASL protocol."
    )
    sasl_username: str | None = Field(None, description="User name for SASL.")
    sasl_password: SecretStr | None = Field(None, description="Password for SASL; never logged.")
    ssl_cafile: Path | None = Field(None, description="Certificates to trust (PEM).")
    ssl_certfile: Path | None = Field(None, description="This client's certificate (PEM).")
    ssl_keyfile: Path | None = Field(None, description="This client's key (PEM).")
    startup_timeout_seconds: float = Field(10, gt=0, description="How long to try to reach Kafka at start.")

    group_id: str = Field(
        "learner-worker", min_length=1, description="Replicas of one group share the shards."
    )
    group_instance_id: str | None = Field(
        None, min_length=1, description="A name that survives restarts: a restart then moves no shard."
    )
    session_timeout_seconds: float = Field(
        10, ge=1, description="A replica silent for so long loses its shards."
    )
    standby_replicas: int = Field(
        0,
        ge=0,
        le=10,
        description="Replicas that follow a shard besides its owner; one takes over in seconds.",
    )
    state_dir: Path = Field(
        Path("learner-state"), description="This replica's own folder for its shards' files."
    )

    topic_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{0,100}$")] = Field(
        "", description="Put before every topic's name."
    )
    topic_bid_placed: TopicSetting = Field("bid-placed", description="Name of this topic, as the next ones.")
    topic_auction_closed: TopicSetting = Field("auction-closed", description="See --topic-bid-placed.")
    topic_task_finished: TopicSetting = Field("task-finished", description="See --topic-bid-placed.")
    topic_requests: TopicSetting = Field("suggest-bid-requests", description="See --topic-bid-placed.")
    topic_replies: TopicSetting = Field("suggest-bid-replies", description="See --topic-bid-placed.")
    topic_outcomes: TopicSetting = Field("learner-outcomes", description="See --topic-bid-placed.")
    topic_metrics: TopicSetting = Field("learner-agent-metrics", description="See --topic-bid-placed.")
    topic_rerouted: TopicSetting = Field("learner-rerouted", description="See --topic-bid-placed.")
    topic_dead_letters: TopicSetting = Field("learner-dead-letters", description="See --topic-bid-placed.")
    reply_topics: Names = Field(
        None,
        description="Topics that replies may go to, comma-separated; a trailing * stands for any ending.",
    )

    strategy: Literal["classic"] = Field("classic", description="How metrics become advice.")
    auction_horizon_seconds: float = Field(
        3600, gt=0, description="How far apart the events of one auction may arrive."
    )
    outcome_retention_seconds: Retention = Field(
        None, description="How long outcomes count after their auction's close; none = for ever."
    )
    clock_skew_tolerance_seconds: float = Field(
        1, ge=0, description="A bid placed so long after its auction's close still counts."
    )
    request_ttl_seconds: float = Field(10, gt=0, description="After it nobody waits for an answer.")
    while_restoring: Literal["wait", "refuse", "stale"] = Field(
        "wait",
        description="A request's lot during a restore: a wait until its deadline, a refusal, a stale answer.",
    )
    checkpoint_interval_seconds: float = Field(1, gt=0, description="How often work becomes durable.")
    cached_agents: int = Field(100_000, ge=1, description="Agents whose metrics stay in memory.")

    http_host: str = Field("127.0.0.1", description="Where health and metrics are served.")
    http_port: Port = Field(0, description="Its port; 0 = any free one (logged), none = off.")
    log_format: LogFormat = Field("auto", description="json, console, or auto: console on a terminal.")
    log_level: LogLevel = Field("info", description="debug also shows the Kafka client's own logs.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Adds the TOML file as the last source."""
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, dotenv_settings, file_secret_settings, toml

    def topics(self) -> Topics:
        """The topics' names."""
        return Topics(
            prefix=self.topic_prefix,
            bid_placed=self.topic_bid_placed,
            auction_closed=self.topic_auction_closed,
            task_finished=self.topic_task_finished,
            requests=self.topic_requests,
            replies=self.topic_replies,
            outcomes=self.topic_outcomes,
            metrics=self.topic_metrics,
            rerouted=self.topic_rerouted,
            dead_letters=self.topic_dead_letters,
        )

    def connection(self) -> Connection:
        """How to reach Kafka.

        Raises:
            ConfigurationError: a certificate cannot be read.
        """
        return Connection(
            bootstrap_servers=self.bootstrap_servers,
            client_id=self.client_id,
            security_protocol=self.security_protocol,
            ssl_context=self._ssl_context(),
            sasl_mechanism=self.sasl_mechanism,
            sasl_username=self.sasl_username,
            sasl_password=self.sasl_password,
        )

    def _ssl_context(self) -> Any:
        if not self.security_protocol.endswith("SSL"):
            return None
        files = (self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)
        cafile, certfile, keyfile = (None if path is None else str(path) for path in files)
        try:
            return create_ssl_context(cafile=cafile, certfile=certfile, keyfile=keyfile)
        except OSError as error:
            raise ConfigurationError(
                f"cannot read a certificate ({error}): check --ssl-cafile, --ssl-certfile and --ssl-keyfile"
            ) from error


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """The settings, flags first.

    Raises:
        ConfigurationError: a value is not allowed; the message names its flag and its variable.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError("; ".join(map(_describe, error.errors(include_url=False)))) from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"the settings cannot be read: {error}") from error


def _describe(problem: Any) -> str:
    name = str(problem["loc"][0])
    where = f"--{name.replace('_', '-')} ({SETTINGS_PREFIX}{name.upper()})"
    return f"{where}: {problem['msg']}, not {problem['input']!r}"
