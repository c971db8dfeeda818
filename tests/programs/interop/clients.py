"""The clients of other frameworks: one line each."""

from dataclasses import dataclass
from pathlib import Path

from learner_worker.contract.topics import TopicNames
from tests.programs.interop.projects import MavenProject, NpmProject, Project, PythonProject

HERE = Path(__file__).parent
SPRING = MavenProject(HERE / "spring")
SMALLRYE = MavenProject(HERE / "smallrye")
NESTJS = NpmProject(HERE / "nestjs")
PYTHON = PythonProject(HERE / "python")


@dataclass(frozen=True, slots=True)
class Client:
    """A program that asks the learner, and prints what it was told as JSON lines."""

    key: str
    title: str
    project: Project
    program: str
    arguments: tuple[str, ...] = ()
    is_misplaced: bool = False
    """Whether some of its requests must lie on a wrong partition, and so be moved."""
    sends_tokens: bool = False
    """Whether it also asks a learner that requires identity."""

    def reply_topic(self, names: TopicNames) -> str:
        """A reply topic of its own, on the default allow-list."""
        return f"{names.replies}.{self.key}"


CLIENTS = (
    Client(
        "spring", "Spring Kafka, ReplyingKafkaTemplate", SPRING, "Ask", is_misplaced=True, sends_tokens=True
    ),
    Client("nestjs", "NestJS, ClientKafka", NESTJS, "ask.js", is_misplaced=True, sends_tokens=True),
    Client("smallrye", "SmallRye, KafkaRequestReply (Weld SE)", SMALLRYE, "interop.Ask", is_misplaced=True),
    Client(
        "faststream",
        "FastStream, aiokafka's broker",
        PYTHON,
        "ask_faststream.py",
        ("kafka",),
        is_misplaced=True,
    ),
    Client(
        "faststream-confluent",
        "FastStream, confluent's broker",
        PYTHON,
        "ask_faststream.py",
        ("confluent",),
        is_misplaced=True,
    ),
    Client("librdkafka", "confluent-kafka", PYTHON, "ask_plain.py", ("librdkafka",), is_misplaced=True),
    Client("aiokafka", "aiokafka", PYTHON, "ask_plain.py", ("aiokafka",), is_misplaced=True),
)
