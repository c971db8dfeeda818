"""Settings: where they come from, which goes first, and what is said about a wrong one."""

import os
from pathlib import Path
from typing import Any

import pytest

from learner_worker.contract.topics import Topics
from learner_worker.errors import ConfigurationError
from learner_worker.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine's shows in these tests."""
    for name in [name for name in os.environ if name.upper().startswith("LEARNER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def complaint(flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(flags or {})
    return str(caught.value)


# --- sources --------------------------------------------------------------------------------------


def test_defaults_are_enough() -> None:
    """Without any setting the worker has an address, a group, a folder and the contract's durations."""
    settings = load_settings({})

    assert ("localhost:9092", "learner-worker", Path("learner-state"), 0, "127.0.0.1") == (
        settings.bootstrap_servers,
        settings.group_id,
        settings.state_dir,
        settings.http_port,
        settings.http_host,
    )
    assert (
        settings.auction_horizon_seconds,
        settings.clock_skew_tolerance_seconds,
        settings.request_ttl_seconds,
    ) == (3600.0, 1.0, 10.0)


def test_a_flag_goes_before_the_environment_before_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """In falling order of weight: flag, variable, .env, learner-worker.toml, default."""
    Path("learner-worker.toml").write_text('group_id = "toml"\nclient_id = "toml"\n')
    assert load_settings({}).group_id == "toml"
    Path(".env").write_text("LEARNER_GROUP_ID=dotenv\nOTHER=1\n")
    assert load_settings({}).group_id == "dotenv"
    monkeypatch.setenv("LEARNER_GROUP_ID", "variable")
    assert load_settings({}).group_id == "variable"
    settings = load_settings({"group_id": "flag"})
    assert (settings.group_id, settings.client_id) == ("flag", "toml")


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("LEARNER_BOOTSTRAP_SERVERS", "a:1,b:2", "bootstrap_servers", "a:1,b:2"),
        ("LEARNER_STATE_DIR", "/var/x", "state_dir", Path("/var/x")),
        ("LEARNER_GROUP_INSTANCE_ID", "worker-0", "group_instance_id", "worker-0"),
        ("LEARNER_AUCTION_HORIZON_SECONDS", "1.5", "auction_horizon_seconds", 1.5),
        ("LEARNER_CACHED_AGENTS", "7", "cached_agents", 7),
        ("LEARNER_WHILE_RESTORING", "stale", "while_restoring", "stale"),
        ("LEARNER_CLOCK_SKEW_TOLERANCE_SECONDS", "0", "clock_skew_tolerance_seconds", 0.0),
        ("learner_group_id", "lower", "group_id", "lower"),
    ],
)
def test_each_setting_has_a_variable(
    variable: str, text: str, name: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LEARNER_ and the setting's name, in any case."""
    monkeypatch.setenv(variable, text)

    assert expected == getattr(load_settings({}), name)


@pytest.mark.parametrize(("text", "seconds"), [("none", None), ("None", None), ("0.5", 0.5), ("90", 90.0)])
def test_the_retention_may_be_none(text: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes count for ever by default and with none, else for so many seconds."""
    assert load_settings({}).outcome_retention_seconds is None
    monkeypatch.setenv("LEARNER_OUTCOME_RETENTION_SECONDS", text)
    assert seconds == load_settings({}).outcome_retention_seconds
    assert seconds == load_settings({"outcome_retention_seconds": text}).outcome_retention_seconds


@pytest.mark.parametrize(
    ("text", "port"), [("none", None), ("NONE", None), ("None", None), ("0", 0), ("1", 1), ("65535", 65_535)]
)
def test_the_http_port_may_be_any_or_none(
    text: str, port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 is any free port, none switches HTTP off, by variable and by flag."""
    monkeypatch.setenv("LEARNER_HTTP_PORT", text)
    assert port == load_settings({}).http_port
    monkeypatch.delenv("LEARNER_HTTP_PORT")
    assert port == load_settings({"http_port": text}).http_port


def test_workers_addresses_are_given_by_repeated_flags_or_with_commas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flags before the variable; none by default."""
    assert load_settings({}).worker_url is None
    monkeypatch.setenv("LEARNER_WORKER_URL", "http://a:8080, http://[::1]:1/")
    assert load_settings({}).worker_url == ["http://a:8080", "http://[::1]:1/"]
    assert load_settings({"worker_url": ("http://b", "http://c:1,http://d")}).worker_url == [
        "http://b",
        "http://c:1",
        "http://d",
    ]


@pytest.mark.parametrize(
    "text", ["a:8080", "https://a", "http://", "http://a/readyz", "http://a:x", "http://u@a"]
)
def test_what_is_no_workers_address_is_refused(text: str) -> None:
    """With the flag, the variable and an example; or what is wrong in the address."""
    message = complaint({"worker_url": (text,)})
    assert message.startswith("--worker-url (LEARNER_WORKER_URL): ")
    assert "http://learner-worker:8080" in message


@pytest.mark.parametrize(
    ("text", "topics"),
    [
        ("a", ["a"]),
        ("a,b.*", ["a", "b.*"]),
        (" a , b ,", ["a", "b"]),
        (",", []),
    ],
)
def test_lists_are_comma_separated(text: str, topics: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces and empty items go; JSON is not needed; not set is the default patterns."""
    assert load_settings({}).reply_topics is None
    monkeypatch.setenv("LEARNER_REPLY_TOPICS", text)
    assert topics == load_settings({}).reply_topics
    assert topics == load_settings({"reply_topics": text}).reply_topics


def test_a_list_may_be_one_in_toml() -> None:
    """In the TOML file a list is a list."""
    Path("learner-worker.toml").write_text('reply_topics = ["a", "b.*"]\nhttp_port = "none"\n')

    settings = load_settings({})
    assert (settings.reply_topics, settings.http_port) == (["a", "b.*"], None)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("http_port", "65536"),
        ("http_port", "-1"),
        ("outcome_retention_seconds", "0"),
        ("http_port", "http"),
        ("security_protocol", "TLS"),
        ("sasl_mechanism", "KERBEROS"),
        ("startup_timeout_seconds", "0"),
        ("session_timeout_seconds", "0.9"),
        ("auction_horizon_seconds", "0"),
        ("auction_horizon_seconds", "an hour"),
        ("clock_skew_tolerance_seconds", "-1"),
        ("request_ttl_seconds", "0"),
        ("checkpoint_interval_seconds", "0"),
        ("cached_agents", "0"),
        ("paid_on", "payday"),
        ("while_restoring", "hope"),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("topic_prefix", "a b"),
        ("topic_prefix", "x" * 101),
        ("topic_replies", "ü"),
    ],
)
def test_a_wrong_value_names_its_flag_and_its_variable(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By flag and by variable the same sentence: what to set, what is wrong, what it was."""
    flag = f"--{name.replace('_', '-')} (LEARNER_{name.upper()}): "
    by_flag = complaint({name: text})
    monkeypatch.setenv(f"LEARNER_{name.upper()}", text)

    assert (by_flag.startswith(flag), by_flag.endswith(f", not {text!r}")) == (True, True)
    assert by_flag == complaint()


def test_all_wrong_values_are_told_at_once() -> None:
    """Two mistakes are two parts of one message."""
    message = complaint({"http_port": "x", "cached_agents": 0})

    assert (
        "--http-port (LEARNER_HTTP_PORT)" in message,
        "--cached-agents (LEARNER_" in message,
    ) == (True, True)


@pytest.mark.parametrize("text", ["group_id =", "[", "\udcff"])
def test_a_file_that_cannot_be_read_is_a_configuration_error(text: str) -> None:
    """Broken TOML is told as such."""
    Path("learner-worker.toml").write_bytes(text.encode(errors="surrogateescape"))

    assert complaint().startswith("the settings cannot be read: ")


@pytest.mark.parametrize("name", ["http_host", "http_port", "group_id", "log_level", "reply_topics"])
def test_an_empty_variable_is_an_unset_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty in the environment, as a quoted nothing or in `.env`: the default stands."""
    default = Settings.model_fields[name].default
    for text in ("", '""'):
        monkeypatch.setenv(f"LEARNER_{name.upper()}", text)
        assert default == getattr(load_settings({}), name)
    monkeypatch.delenv(f"LEARNER_{name.upper()}")
    Path(".env").write_text(f"LEARNER_{name.upper()}=\n")
    assert default == getattr(load_settings({}), name)


def test_a_settings_file_is_read_as_people_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a byte-order mark, with either quotes, with `export`; a password keeps its own quotes."""
    Path("learner-worker.toml").write_text('\ufeffclient_id = "toml"\n')
    Path(".env").write_text("\ufeffLEARNER_GROUP_ID=\"dotenv\"\nexport LEARNER_LOG_LEVEL='debug'\n")
    monkeypatch.setenv("LEARNER_TOPIC_PREFIX", "'quoted-'")
    monkeypatch.setenv("LEARNER_SASL_PASSWORD", "'secret'")

    settings = load_settings({})

    read = (settings.client_id, settings.group_id, settings.log_level, settings.topic_prefix)
    assert read == ("toml", "dotenv", "debug", "quoted-")
    assert settings.sasl_password is not None
    assert settings.sasl_password.get_secret_value() == "'secret'"


def test_a_name_that_no_setting_has_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, in `.env` and in the TOML file, all at once, each with the nearest setting."""
    monkeypatch.setenv("LEARNER_BOOTSTRAP_SERVER", "kafka:9092")
    Path(".env").write_text("# LEARNER_OLD=1\nexport LEARNER_STATEDIR=/data\nOTHER=1\n")
    Path("learner-worker.toml").write_text('groupid = "x"\ntopic_prefix = "t-"\n\n[learner]\nhttp_port = 1\n')

    variable = "no setting reads the environment variable LEARNER_BOOTSTRAP_SERVER"
    section = "learner-worker.toml has a section [learner], but settings are read from its top level only"
    assert complaint().split("; ") == [
        f"{variable}: did you mean LEARNER_BOOTSTRAP_SERVERS?",
        "no setting reads the variable in .env LEARNER_STATEDIR: did you mean LEARNER_STATE_DIR?",
        "no setting reads the key groupid in learner-worker.toml: did you mean group_id?",
        f"{section}: remove the line [learner]",
    ]


def test_what_kubernetes_sets_beside_a_service_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service of the name `learner` or `learner-worker` in the namespace stops no worker."""
    for name, value in {
        "LEARNER_SERVICE_HOST": "10.0.0.1",
        "LEARNER_SERVICE_PORT": "8080",
        "LEARNER_PORT": "tcp://10.0.0.1:8080",
        "LEARNER_WORKER_SERVICE_PORT_HTTP": "8080",
        "LEARNER_WORKER_PORT_8080_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)

    assert load_settings({}).http_port == 0


def test_a_login_needs_a_user_and_a_password() -> None:
    """A SASL protocol without them: what to set, and nothing of a password that is given."""
    message = complaint({"security_protocol": "SASL_SSL", "sasl_password": "hidden"})

    assert "set --sasl-username (LEARNER_SASL_USERNAME) and LEARNER_SASL_PASSWORD" in message
    assert "hidden" not in message


def test_a_url_is_no_address() -> None:
    """http:// before the address: what to write instead."""
    message = complaint({"bootstrap_servers": "kafka-1:9092,http://kafka-2:9092/"})

    assert message == (
        "--bootstrap-servers (LEARNER_BOOTSTRAP_SERVERS): http://kafka-2:9092/ is a URL: write kafka-2:9092, "
        "without http://"
    )


# --- what they become -----------------------------------------------------------------------------


def test_topics_are_named_by_the_settings() -> None:
    """Each topic's setting reaches its own topic, and the prefix all of them."""
    given = Topics.__dataclass_fields__.keys() - {"prefix", "advice_log"}
    names: dict[str, Any] = {name: f"my-{name}" for name in given}
    settings = load_settings(
        {"topic_prefix": "eu.", **{f"topic_{name}": text for name, text in names.items()}}
    )

    assert Topics(prefix="eu.", **names) == settings.topics()
    assert Topics() == load_settings({}).topics()


def test_a_password_is_never_shown() -> None:
    """It reaches the connection's options and no repr, of the settings or of the connection."""
    secret = "hunter" + "2"
    settings = load_settings(
        {"sasl_username": "me", "sasl_password": secret, "security_protocol": "SASL_PLAINTEXT"}
    )

    assert secret == settings.connection().options()["sasl_plain_password"]
    assert secret not in repr(settings) + repr(settings.connection())


def test_tls_is_on_with_an_ssl_protocol_alone() -> None:
    """SSL and SASL_SSL bring a context, plain protocols none."""
    login = {"sasl_username": "me", "sasl_password": "secret"}
    assert {
        protocol: load_settings({**login, "security_protocol": protocol}).connection().ssl_context is not None
        for protocol in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    } == {"PLAINTEXT": False, "SSL": True, "SASL_PLAINTEXT": False, "SASL_SSL": True}


def test_a_missing_certificate_is_a_configuration_error() -> None:
    """The message names the file and its flag."""
    settings = load_settings({"security_protocol": "SSL", "ssl_cafile": "no-such-file.pem"})

    with pytest.raises(ConfigurationError, match=r"cannot read no-such-file.pem .*: correct --ssl-cafile"):
        settings.connection()


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    """The command line shows these sentences as its help."""
    assert (Settings.model_fields[name].description or "").endswith((".", "..."))
