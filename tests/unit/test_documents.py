"""What the documents say of the code's shape is what the code and its contracts say."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import reference
from tests.support.documents import pages
from tests.support.wiring import PlayedClients, QuietConsumer, RememberedFiles, worker_on

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "learner_worker"


def layers() -> list[set[str]]:
    """The packages as import-linter is told, from the topmost."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = settings["tool"]["importlinter"]["contracts"][0]
    return [set(re.split(r"\s*\|\s*", layer)) for layer in contract["layers"]]


def chain_in(path: str) -> list[set[str]]:
    """The packages as a document draws them: `>` between layers."""
    (drawn,) = [block for block in _blocks((ROOT / path).read_text()) if block.startswith("__main__ >")]
    return [set(re.split(r"[\s,|]+", layer.strip())) for layer in drawn.split(">")]


def _blocks(text: str) -> Iterator[str]:
    return (block.strip() for block in text.split("```")[1::2])


def first_cells(path: str, heading: str) -> set[str]:
    """What stands in code in the first column of the table with this heading."""
    _, _, rest = (ROOT / path).read_text().partition(f"\n{heading}\n")
    rows = rest.partition("\n\n")[0].splitlines()
    return {cell[1] for row in rows if (cell := re.match(r"\| `([^`]+)` \|", row))}


def test_the_import_chain_is_drawn_as_it_is_checked() -> None:
    """In both documents: the same layers in the same order."""
    for path in ("CONTRIBUTING.md", "docs/architecture.md"):
        assert chain_in(path) == layers(), path


def test_every_package_is_in_the_table_of_packages() -> None:
    """Each folder and module of the package that is more than an entry point."""
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert first_cells("CONTRIBUTING.md", "| package | what is in it |") == folders | modules


async def test_every_loop_of_a_worker_is_in_the_table_of_loops(tmp_path: Path) -> None:
    """By the name of its task; this worker has no store of snapshots."""
    worker = worker_on(PlayedClients(QuietConsumer()), RememberedFiles(tmp_path))
    loops = {*worker.loops, "snapshots"}
    assert first_cells("docs/architecture.md", "| loop | does | where |") == loops


def test_the_glossary_is_short_sorted_and_complete() -> None:
    """At most 60 terms, each once, with one sentence and the word that Kafka, Streams or Flink has for it."""
    _, _, rest = (
        (ROOT / "docs/glossary.md").read_text().partition("| term | meaning | elsewhere |\n|---|---|---|\n")
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rest.splitlines()]
    terms = [row[0] for row in rows]

    assert 0 < len(terms) <= 60
    assert terms == sorted(set(terms))
    for term, meaning, elsewhere in rows:
        assert re.fullmatch(r"[A-Z].*\.", meaning), term
        assert elsewhere == "-" or re.match(r"(?:K|KS|F): \S", elsewhere), term


def test_the_reference_is_current() -> None:
    """Commands, settings and metrics as the code has them; `make schemas` writes the page."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()


def test_the_readme_is_short() -> None:
    """At most 120 lines: what, see, run, publish, ask, how, where to read on."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_changelog_and_the_frozen_interfaces_agree() -> None:
    """What is not released stands first; every version below it has a date and its interface in schemas/."""
    titles = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", title) for title in titles[1:]]

    assert titles[0] == "[Unreleased]"
    assert all(released)
    frozen = {path.parent.name for path in (ROOT / "schemas/released").glob("*/asyncapi.json")}
    assert {title[1] for title in released if title} == frozen


@pytest.mark.parametrize(
    ("path", "attribute"),
    [
        ("schemas/asyncapi.json", "linguist-generated"),
        ("schemas/released/0.1.0/asyncapi.json", "linguist-generated"),
        ("docs/interface.md", "linguist-generated"),
        ("docs/performance.svg", "linguist-generated"),
        ("requirements/dev.lock", "linguist-generated"),
        ("docs/examples/typescript/package-lock.json", "linguist-generated"),
        ("tests/programs/asyncapi/asyncapi-3.0.0.schema.json", "linguist-vendored"),
    ],
)
def test_what_nobody_writes_by_hand_is_marked(path: str, attribute: str) -> None:
    """Generated and vendored files are told apart from the project's own by .gitattributes."""
    assert (ROOT / path).exists()
    lines = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    attributes = [line.split() for line in lines if line and not line.startswith("#")]
    assert any(attribute == given and _matches(path, pattern) for pattern, given in attributes)


def _matches(path: str, pattern: str) -> bool:
    """As git reads a pattern: `**` any folders, `*` within one."""
    expression = (
        re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    )
    return re.fullmatch(expression, path) is not None


@pytest.mark.parametrize("path", pages())
def test_prose_is_at_most_100_columns_wide(path: str) -> None:
    """But for tables, fenced blocks and what is generated."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if text.startswith("<!-- Written by"):
        return
    prose = re.sub(r"^<!-- written by .*?^<!-- end -->$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(prose.split("```")[::2]).splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_every_page_is_in_the_index() -> None:
    """A page that docs/README.md does not list, nobody finds."""
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    unlisted = {path.name for path in (ROOT / "docs").glob("*.md") if f"({path.name})" not in index}
    assert unlisted == {"README.md"}
