"""One Apache Kafka node: its folder, its settings file and its Java process."""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from learner_worker.brokers.guardian import GUARDIAN
from learner_worker.errors import BrokerError

FORMAT_SECONDS = 60.0  # a JVM starts and writes one file, on a slow machine
STOP_SECONDS = 15.0  # a broker hands over its leaderships in a few
TOLD_LINES = 15  # of a log: enough for an error and its reason
LOG_SETTINGS = [
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]


@dataclass(slots=True)
class KafkaNode:
    """One node; it may be started and stopped repeatedly on the same folder and ports."""

    node_id: int
    folder: Path
    server: str
    java: str
    jars: Path
    properties: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log_file(self) -> Path:
        """The log of the node's process."""
        return self.folder / "kafka.log"

    def format(self, cluster_id: str) -> None:
        """Write the settings, and format the folder for the cluster unless an earlier start did.

        Raises `BrokerError` when Kafka refuses the settings or the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in self.properties.items()]
        self._settings_file.write_text("".join(lines), encoding="utf-8")
        if not Path(self.properties["log.dirs"], "meta.properties").exists():
            self._format_storage(cluster_id)

    def start(self) -> None:
        """Start the process in its own process group; returns at once."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._java("-Xms128m", "-Xmx512m"), "kafka.Kafka", str(self._settings_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )
        GUARDIAN.add("process", str(self.process.pid))

    def check_alive(self) -> None:
        """Raises `BrokerError` with the log's last lines when the process has ended."""
        if self.process is None or self.process.poll() is not None:
            raise BrokerError(
                f"Kafka's node {self.node_id} ended at its start; its last words:\n{self.last_words()}"
            )

    def last_words(self) -> str:
        """The last lines of the log."""
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TOLD_LINES:])

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to the process group; nothing if the node is not running."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal_number)

    def wait(self) -> None:
        """Wait for the process to end; kill it if that takes too long."""
        if self.process is None:
            return
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait()
        GUARDIAN.remove("process", str(self.process.pid))
        self.process = None

    def _format_storage(self, cluster_id: str) -> None:
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", f"--cluster-id={cluster_id}"]
        command = [*self._java("-XX:TieredStopAtLevel=1"), *tool, "--config", str(self._settings_file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_SECONDS, check=False)
        if done.returncode != 0:
            raise BrokerError(f"Kafka could not format {self.folder}:\n{(done.stdout + done.stderr).strip()}")

    def _java(self, *options: str) -> list[str]:
        return [self.java, "-Djava.awt.headless=true", *LOG_SETTINGS, *options, "-cp", f"{self.jars}/*"]

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"
