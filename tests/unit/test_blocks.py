"""The table of the documents' shell and Python blocks is complete, and what is not run is sound."""

import pytest

from tests.support.blocks import READINGS, WAYS, Run, line_of
from tests.support.documents import Block, blocks, check, pages, untagged_programs


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_way(page: str) -> None:
    """No block is left out: a new one needs its line in `WAYS`, and each line has its block."""
    lines = {block.name: line_of(block) for block in blocks(page)}

    assert [name for name, line in lines.items() if line is None] == []
    assert set(lines.values()) == set(WAYS.get(page, {}))
    assert untagged_programs(page) == []


@pytest.mark.parametrize("block", [block for page in pages() for block in blocks(page)], ids=lambda b: b.id)
def test_every_block_parses(block: Block) -> None:
    """Python and shell parse; commands of the learner take their arguments, make has its targets."""
    check(block)


def test_every_page_that_runs_is_read() -> None:
    """None has a block to run, and is left out."""
    runs = {page for page, ways in WAYS.items() if any(isinstance(way, Run) for way in ways.values())}
    assert runs == {page for reading in READINGS for page in reading}
