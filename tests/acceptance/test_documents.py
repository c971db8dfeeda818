"""README and docs, typed from top to bottom on the embedded broker: they do what they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

import pytest

from learner_worker.brokers import BrokerKind
from tests.support.blocks import READINGS, Check, Run, Save, Serve, way_of
from tests.support.documents import Reader, blocks, check


@pytest.fixture
def reader(tmp_path: Path, broker_kinds: frozenset[BrokerKind]) -> Iterator[Reader]:
    if BrokerKind.EMBEDDED not in broker_kinds:
        pytest.skip("this run of the suite does not use the embedded broker")
    made = Reader(tmp_path)
    try:
        yield made
    finally:
        made.clean_up()


@pytest.mark.timeout(900)  # some thirty commands, each a Python of its own, on a machine that may be busy
@pytest.mark.parametrize("reading", READINGS, ids=" ".join)
def test_pages_do_what_they_say(reading: tuple[str, ...], reader: Reader) -> None:
    """Whoever types the blocks from top to bottom sees what the pages show."""
    for block in (block for page in reading for block in blocks(page)):
        match way_of(block):
            case Run(stopped):
                if stopped:
                    reader.interrupt()
                reader.run(block)
            case Serve():
                reader.serve(block)
            case Save(name):
                reader.save(block, name)
            case Check():
                check(block)
            case way:
                assert_never(way)
    reader.interrupt()
