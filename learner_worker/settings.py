"""Every setting of the worker; no other module reads flags, environment variables or files.

In order of precedence: a flag, an environment variable (`LEARNER_...`), a `.env` file, then
`learner-worker.toml`, both in the working directory, and the default. An empty variable counts as unset.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from learner_worker.connection_settings import LAST_PORT, ConnectionSettings
from learner_worker.contract.topics import Topics, in_layout
from learner_worker.errors import ConfigurationError
from learner_worker.observability import LogFormat, LogLevel
from learner_worker.setting_sources import (
    ENV_FILE,
    FILE_ENCODING,
    SETTINGS_PREFIX,
    TOML_FILE,
    EnvironmentSource,
    TomlSource,
    unknown_settings,
)

MOST_PROCESSES: Final = 256
"""More than a machine's processors or a topic's shards make use of."""
_SNAPSHOT_URL = re.compile(r"file:///.+|s3://[a-z0-9.-]+(/.*)?")
_AGENT_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}=.+")
_WORKER_URL = re.compile(r"http://(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(:[0-9]{1,5})?/?")


def _none(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "none" else value


def _automatic(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "auto" else value


def _listed(value: object) -> object:
    """The items of a text with commas, or of several: a flag may be repeated."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    return [item.strip() for text in texts for item in str(text).split(",") if item.strip()]


def _worker_url(value: str) -> str:
    if not _WORKER_URL.fullmatch(value):
        raise ValueError(f"{value!r} is no address of a worker's HTTP, as http://learner-worker:8080")
    return value


def _agent_topic(value: str) -> str:
    if not _AGENT_TOPIC.fullmatch(value):
        raise ValueError(f"{value!r} is neither TOPIC=AGENT nor TOPIC=PREFIX*")
    return value


def _snapshot_url(value: str) -> str:
    if not _SNAPSHOT_URL.fullmatch(value):
        raise ValueError(
            f"{value!r} is neither a folder, file:///mnt/snapshots, nor a bucket, s3://bucket/folder"
        )
    return value


Port = Annotated[int | None, Field(ge=0, le=LAST_PORT), BeforeValidator(_none)]
Processes = Annotated[int | None, Field(ge=1, le=MOST_PROCESSES), BeforeValidator(_automatic)]
Retention = Annotated[float | None, Field(gt=0), BeforeValidator(_none)]
SnapshotUrl = Annotated[Annotated[str, AfterValidator(_snapshot_url)] | None, BeforeValidator(_none)]
Names = Annotated[list[str] | None, NoDecode, BeforeValidator(_listed)]
WorkerUrls = Annotated[
    list[Annotated[str, AfterValidator(_worker_url)]] | None, NoDecode, BeforeValidator(_listed)
]
AgentTopics = Annotated[
    list[Annotated[str, AfterValidator(_agent_topic)]] | None, NoDecode, BeforeValidator(_listed)
]
TopicSetting = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,200}$")]


class Settings(ConnectionSettings):
    """The worker's settings; durations in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=SETTINGS_PREFIX,
        env_file=ENV_FILE,
        env_file_encoding=FILE_ENCODING,
        env_ignore_empty=True,
        toml_file=TOML_FILE,
        extra="ignore",
    )

    group_id: str = Field(
        "learner-worker", min_length=1, description="Kafka consumer group; its replicas share the shards."
    )
    group_instance_id: str | None = Field(
        None,
        min_length=1,
        description="Static member id (group.instance.id), one for each replica: a restart moves no shard.",
    )
    leave_group_on_stop: bool = Field(
        False,
        description="Leave the group at every stop, so that other replicas have the shards at once; "
        "otherwise a static member keeps them until its session times out.",
    )
    session_timeout_seconds: float = Field(
        10,
        ge=1,
        description="Session timeout: a replica silent for this many seconds loses its shards.",
    )
    standby_replicas: int = Field(
        0,
        ge=0,
        le=10,
        description="Standbys for each shard: replicas with a warm copy, which take over within seconds.",
    )
    state_dir: Path = Field(
        Path("learner-state"),
        description="Folder for this replica's shard files; never shared with another replica.",
    )
    processes: Processes = Field(
        1,
        description="Processes of this replica, each a member of the group; auto = one for each processor "
        "that its cgroup allows, and at most one for each 512 MiB of memory after 128 MiB for their parent.",
    )

    topic_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{0,100}$")] = Field(
        "", description="Prefix of every topic name."
    )
    topic_bid_placed: TopicSetting = Field("bid-placed", description="Name of the bid-placed topic.")
    topic_auction_closed: TopicSetting = Field(
        "auction-closed", description="Name of the auction-closed topic."
    )
    topic_task_finished: TopicSetting = Field("task-finished", description="Name of the task-finished topic.")
    topic_requests: TopicSetting = Field("suggest-bid-requests", description="Name of the request topic.")
    topic_replies: TopicSetting = Field("suggest-bid-replies", description="Name of the default reply topic.")
    topic_outcomes: TopicSetting = Field("learner-outcomes", description="Name of the changelog topic.")
    topic_metrics: TopicSetting = Field("learner-agent-metrics", description="Name of the metrics topic.")
    topic_rerouted: TopicSetting = Field(
        "learner-rerouted", description="Name of the topic for rerouted events."
    )
    topic_dead_letters: TopicSetting = Field(
        "learner-dead-letters", description="Name of the dead-letter topic."
    )
    topic_topology: TopicSetting = Field("learner-topology", description="Name of the topology topic.")
    topic_advice: TopicSetting = Field("learner-advice", description="Name of the advice log's topic.")
    reply_topics: Names = Field(
        None,
        description="Allow-list of reply topics, comma-separated; a trailing * matches any suffix.",
    )

    strategy: str = Field(
        "classic",
        min_length=1,
        description="Default strategy: how metrics become advice; a name, or package.module:name.",
    )
    strategies: Names = Field(
        None,
        description="Strategies that requests may name besides, comma-separated; "
        "not set = all built-in ones.",
    )
    paid_on: Literal["success", "win"] = Field(
        "success", description="When the swarm pays the winner: for a task done, or for winning."
    )
    advice_log: bool = Field(
        False, description="Write what was advised for each request that names its task to a topic."
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        description="Strategies and the shares of tasks that they advise on, as "
        "classic=0.5,expected-profit=0.5; needs the advice log.",
    )
    experiment_name: str = Field(
        "experiment", min_length=1, description="Name of the experiment: another one draws the tasks anew."
    )
    auction_horizon_seconds: float = Field(
        3600, gt=0, description="How far apart in time the events of one auction may arrive, in seconds."
    )
    outcome_retention_seconds: Retention = Field(
        None, description="How long an outcome counts after its auction closed, in seconds; none = forever."
    )
    clock_skew_tolerance_seconds: float = Field(
        1,
        ge=0,
        description="How long after its auction closed a bid may be placed and still count, in seconds.",
    )
    request_ttl_seconds: float = Field(
        10, gt=0, description="How long a request may be answered after it was written, in seconds."
    )
    while_restoring: Literal["wait", "refuse", "stale"] = Field(
        "wait",
        description="What to do with requests for a shard that is restoring: wait until the deadline, "
        "refuse, or answer from stale data.",
    )
    identity: Literal["off", "observe", "require"] = Field(
        "off",
        description="Whether requests have to prove who asks: off, observe (answer and count), or require.",
    )
    identity_jwks_file: Path | None = Field(
        None, description="File with the public keys that tokens are verified by (a JSON Web Key Set)."
    )
    identity_secret_file: Path | None = Field(
        None, description="File with the secrets that tokens are verified by (HS256), one a line."
    )
    identity_audience: str = Field(
        "learner-worker", min_length=1, description="Audience (aud) that tokens have to be made for."
    )
    identity_issuer: str | None = Field(
        None, min_length=1, description="Issuer (iss) that tokens have to come from; not set = any."
    )
    reply_metrics: Literal["full", "none"] = Field(
        "full",
        description="What replies tell besides the advice: the agent's metrics with reasons, or nothing.",
    )
    checkpoint_interval_seconds: float = Field(
        1, gt=0, description="Seconds between checkpoints, which make the work done so far durable."
    )
    snapshot_url: SnapshotUrl = Field(
        None,
        description="Store of snapshots, from which replicas without a shard's file start: a folder that all "
        "replicas share, such as file:///mnt/snapshots, or s3://bucket/folder; needs the extra snapshots.",
    )
    snapshot_interval_seconds: float = Field(
        900, ge=1, description="Seconds between two snapshots of a shard."
    )
    snapshot_keep_seconds: float = Field(
        604_800, ge=1, description="Maximum age of a snapshot, in seconds; older ones are deleted."
    )
    cached_agents: int = Field(
        100_000, ge=1, description="Maximum number of agents kept in memory for each shard."
    )

    http_host: str = Field("127.0.0.1", description="Address that health and metrics are served on.")
    http_port: Port = Field(
        0, description="Port of health and metrics; 0 = any free port (logged), none = off."
    )
    worker_url: WorkerUrls = Field(
        None,
        description="For insights: address of a worker's HTTP, which is asked for its shards' states, as "
        "http://learner-worker:8080; every address that its name has is asked. Repeatable, or "
        "comma-separated.",
    )
    agent_topic: AgentTopics = Field(
        None,
        description="For forward-requests: request topic that only one agent may write, as TOPIC=AGENT, or "
        "TOPIC=PREFIX* for the agents whose ids begin so; the topic's full name. Repeatable, or "
        "comma-separated.",
    )
    log_format: LogFormat = Field(
        "auto", description="Log format; auto = console on a terminal, json otherwise."
    )
    log_level: LogLevel = Field(
        "info", description="Lowest level that is logged; debug includes the Kafka client's own logs."
    )
    traces: bool = Field(
        False,
        description="Send traces by OTLP over HTTP, as OpenTelemetry's own variables (OTEL_...) say; "
        "needs the extra otel.",
    )
    trace_events: float = Field(
        0, ge=0, le=1, description="With --traces: the share of tasks whose events are traced, from 0 to 1."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources, by precedence; the TOML file comes last."""
        del env_settings  # EnvironmentSource takes its place
        environment = EnvironmentSource(settings_cls)
        return init_settings, environment, dotenv_settings, file_secret_settings, TomlSource(settings_cls)

    @model_validator(mode="after")
    def _require_keys(self) -> Self:
        if self.identity != "off" and not (self.identity_jwks_file or self.identity_secret_file):
            raise ValueError(
                f"--identity {self.identity} verifies tokens: set --identity-jwks-file "
                "(LEARNER_IDENTITY_JWKS_FILE) or --identity-secret-file (LEARNER_IDENTITY_SECRET_FILE)"
            )
        return self

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
            topology=self.topic_topology,
            advice=self.topic_advice,
            advice_log=self.advice_log,
        )

    @property
    def agent_topics(self) -> list[str]:
        """The names of the request topics that single agents write."""
        return list(dict.fromkeys(text.partition("=")[0] for text in self.agent_topic or ()))

    @property
    def given_group(self) -> str | None:
        """The group, if a flag, a variable or a file names one; None: only the default."""
        return self.group_id if "group_id" in self.model_fields_set else None


def settings_in_layout(settings: Settings, layout: int) -> Settings:
    """The settings of a worker whose topics and groups are those of a layout."""
    topics = settings.topics()
    names = ("outcomes", "metrics", "rerouted")
    return settings.model_copy(
        update={
            "group_id": in_layout(settings.group_id, layout),
            **{f"topic_{name}": in_layout(getattr(topics, name), layout) for name in names},
        }
    )


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """The settings, with these flags taking precedence.

    Raises:
        ConfigurationError: a value is not allowed, and the message names its flag and its variable; or no
            setting has a name that is given.
    """
    try:
        if unknown := [str(each.error()) for each in unknown_settings(Settings)]:
            raise ConfigurationError("; ".join(unknown))
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError("; ".join(map(_describe, error.errors(include_url=False)))) from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"the settings cannot be read: {error}") from error


def _describe(problem: Any) -> str:
    reason = problem.get("ctx", {}).get("error")
    if not problem["loc"]:
        return str(reason)
    name = str(problem["loc"][0])
    where = f"--{name.replace('_', '-')} ({SETTINGS_PREFIX}{name.upper()})"
    if reason is not None:
        return f"{where}: {reason}"
    return f"{where}: {problem['msg']}, not {problem['input']!r}"
