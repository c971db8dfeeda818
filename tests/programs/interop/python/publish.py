"""Publishes events with librdkafka's own partitioner: keyed ones by CRC32, those without a key anywhere."""

# mypy: disable-error-code="import-not-found"
# (confluent-kafka is installed in a venv of its own, beside this file)

import json
import sys
from pathlib import Path

import confluent_kafka
from reporting import tell

FLUSH_SECONDS = 60.0


def main() -> None:
    """Publish the lines of a file: topic, key or null, value."""
    bootstrap_servers, path = sys.argv[1:]
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 5})
    failures: list[str] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failures.append(str(error))

    for line in Path(path).read_text(encoding="utf-8").splitlines():
        topic, key, value = json.loads(line)
        producer.produce(topic, value.encode(), key=key, on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(FLUSH_SECONDS)
    library = confluent_kafka.libversion()[0]
    tell(version=f"{confluent_kafka.__version__} (librdkafka {library})", unsent=left, failed=len(failures))


if __name__ == "__main__":
    main()
