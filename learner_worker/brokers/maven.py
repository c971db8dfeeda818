"""Apache Kafka's jars from Maven Central, kept in the user's cache folder, and the Java that runs them."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from learner_worker.brokers.broker import Log
from learner_worker.errors import BrokerError
from learner_worker.unix import FCNTL

KAFKA_VERSION = "4.4.0"
BROKER_ARTIFACT = "kafka_2.13"  # other programs of Kafka are other artifacts
SLF4J_VERSION = "1.7.36"  # the slf4j-api this Kafka brings
OLDEST_JAVA = 17  # the oldest version that Kafka 4 brokers run on
JAVA_SECONDS = 30.0  # `java -version` on a slow machine
MAVEN_SECONDS = 600.0  # some 40 MB over a slow connection
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
PROJECT = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>learner-worker</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{slf4j}</version>
    </dependency>
  </dependencies>
</project>
"""


def obstacle() -> str:
    """Why Kafka's jars cannot be fetched or run here, as half a sentence; empty when they can."""
    if not java_program():
        return f"there is no Java {OLDEST_JAVA} or newer; install a JDK and put it on PATH or in JAVA_HOME"
    if not shutil.which("mvn") and not jar_folder().is_dir():
        return "there is no Maven to fetch Apache Kafka with; install Maven and put mvn on PATH"
    return ""


def java_program() -> str:
    """The path of a Java that is recent enough, JAVA_HOME's first; empty if there is none."""
    at_home = Path(os.environ.get("JAVA_HOME") or "/nonexistent", "bin", "java")
    candidates = [str(at_home), shutil.which("java") or ""]
    return next((path for path in candidates if path and _java_version(path) >= OLDEST_JAVA), "")


@cache
def _java_version(path: str) -> int:
    try:
        done = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=JAVA_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


def jar_folder(artifact: str = BROKER_ARTIFACT, version: str = KAFKA_VERSION) -> Path:
    """The cache folder of an artifact's jars, in XDG_CACHE_HOME or ~/.cache; complete if it exists."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = "kafka" if artifact == BROKER_ARTIFACT else artifact
    return Path(home, "learner-worker", f"{name}-{version}")


def fetched_jars(log: Log, artifact: str = BROKER_ARTIFACT, version: str = KAFKA_VERSION) -> Path:
    """The folder with the jars of an artifact of Kafka, fetched on the first call and cached per user.

    Two processes do not race: one fetches into a folder aside and renames it, the other waits.
    Raises `BrokerError` when Maven is missing or cannot fetch them.
    """
    folder = jar_folder(artifact, version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            log(f"fetching Apache Kafka {version} (some 40 MB) from Maven Central into {folder}")
            _fetch(folder, artifact, version)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        if FCNTL is not None:  # elsewhere two downloads at once are only slower
            FCNTL.flock(lock, FCNTL.LOCK_EX)
        yield


def _fetch(folder: Path, artifact: str, version: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as aside:
        jars = Path(aside, "jars")
        project = PROJECT.format(artifact=artifact, version=version, slf4j=SLF4J_VERSION)
        Path(aside, "pom.xml").write_text(project, encoding="utf-8")
        _copy_dependencies(Path(aside), jars, artifact)
        jars.rename(folder)


def _copy_dependencies(project: Path, jars: Path, artifact: str) -> None:
    goal = [COPY_GOAL, f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
    command = [shutil.which("mvn") or "mvn", "-B", "-q", "-ntp", "-f", str(project), *goal]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAVEN_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerError(f"Maven could not be run, install or repair it: {error}") from error
    if done.returncode != 0 or not any(jars.glob(f"{artifact}-*.jar")):
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[:10])
        raise BrokerError(f"Maven could not fetch Apache Kafka's {artifact}, check the network:\n{output}")
