"""Apache Kafka in KRaft mode on this machine: one node for the demo, three for fault tests."""

import base64
import signal
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from learner_worker.brokers import maven
from learner_worker.brokers.broker import Log, silent
from learner_worker.brokers.node import KafkaNode
from learner_worker.brokers.probing import free_ports, is_true_within, live_nodes
from learner_worker.errors import BrokerError

ANSWER_SECONDS = 90.0  # three JVMs that start at once on a slow machine


class KafkaCluster:
    """N nodes on 127.0.0.1, numbered from 1, each broker and controller; running inside `with`.

    `properties` are added to every node's server.properties and win over the ones chosen here. `listeners`
    are more of them for a cluster of one node: by name, where it listens and what it tells clients. Ports
    and folders stay the same over `kill`, `stop` and `start`. Raises `BrokerError` where a node does not
    start.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        nodes: int = 1,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, tuple[str, str]] | None = None,
        log: Log = silent,
    ) -> None:
        ports = free_ports(2 * nodes)
        self._data_dir = data_dir
        self._extra = dict(properties or {})
        self._listeners = dict(listeners or {})
        self._log = log
        self._servers = {node: f"127.0.0.1:{ports[node - 1]}" for node in range(1, nodes + 1)}
        self._controllers = {node: f"127.0.0.1:{ports[nodes + node - 1]}" for node in self._servers}
        self._nodes: dict[int, KafkaNode] = {}

    @property
    def bootstrap_servers(self) -> str:
        """Every node's host:port, comma separated, whether it runs or not."""
        return ",".join(self._servers.values())

    def __enter__(self) -> Self:
        self._nodes = self._prepared_nodes()
        try:
            self._format_nodes()
            self._log(f"starting Apache Kafka {maven.KAFKA_VERSION} on {self.bootstrap_servers}")
            self._start(self._nodes.values())
        except BaseException:
            self._end(signal.SIGKILL, self._nodes.values())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGTERM, self._nodes.values())

    def start(self, node: int) -> None:
        """Restart a node on its ports and data; returns when the cluster lists every running node."""
        self._start([self._nodes[node]])

    def stop(self, node: int) -> None:
        """Shut a node down: it moves its leaderships to others first."""
        self._end(signal.SIGTERM, [self._nodes[node]])

    def kill(self, node: int) -> None:
        """Kill a node: the others notice when its session times out (broker.session.timeout.ms)."""
        self._end(signal.SIGKILL, [self._nodes[node]])

    def _prepared_nodes(self) -> dict[int, KafkaNode]:
        if obstacle := maven.obstacle():
            raise BrokerError(f"Apache Kafka cannot be started here: {obstacle}.")
        jars, java = maven.fetched_jars(self._log), maven.java_program()
        return {node: self._prepared_node(node, java, jars) for node in self._servers}

    def _prepared_node(self, node: int, java: str, jars: Path) -> KafkaNode:
        folder = self._data_dir / f"node-{node}"
        properties = {
            **self._node_properties(node, folder),
            **_replication(len(self._servers)),
            **self._extra,
        }
        return KafkaNode(node, folder, self._servers[node], java, jars, properties)

    def _node_properties(self, node: int, folder: Path) -> dict[str, str]:
        own = f"PLAINTEXT://{self._servers[node]}"
        more = [f",{name}://{at}" for name, (at, _) in self._listeners.items()]
        listed = [f",{name}://{address}" for name, (_, address) in self._listeners.items()]
        return {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(f"{voter}@{at}" for voter, at in self._controllers.items()),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{own},CONTROLLER://{self._controllers[node]}{''.join(more)}",
            "advertised.listeners": f"{own}{''.join(listed)}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(folder / "data"),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),  # the default is a quarter of our heap
        }

    def _format_nodes(self) -> None:
        cluster_id = _kept_cluster_id(self._data_dir)
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="kafka-format") as threads:
            list(threads.map(lambda node: node.format(cluster_id), self._nodes.values()))

    def _start(self, nodes: Iterable[KafkaNode]) -> None:
        for node in nodes:
            node.start()
        if not is_true_within(ANSWER_SECONDS, self._all_answer(list(nodes))):
            output = "\n".join(node.last_words() for node in nodes)
            raise BrokerError(f"Kafka did not answer within {ANSWER_SECONDS:.0f} s; it printed:\n{output}")

    def _all_answer(self, started: list[KafkaNode]) -> Callable[[], bool]:
        def answer() -> bool:
            for node in started:
                node.check_alive()
            return all(live_nodes(node.server) >= self._running() for node in started)

        return answer

    def _running(self) -> int:
        return sum(node.process is not None for node in self._nodes.values())

    def _end(self, how: signal.Signals, nodes: Iterable[KafkaNode]) -> None:
        for node in nodes:
            node.send(how)
        for node in nodes:
            node.wait()


def _replication(nodes: int) -> dict[str, str]:
    """The settings of Kafka's own topics: few partitions on up to three nodes, so that groups start fast."""
    copies, in_sync = str(min(3, nodes)), str(min(2, nodes))
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def _kept_cluster_id(data_dir: Path) -> str:
    """The cluster's id: created on the first start, read on later ones."""
    path = data_dir / "cluster-id"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="), encoding="ascii")
    return path.read_text(encoding="ascii")
