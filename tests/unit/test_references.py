"""What code and documents refer to is there: rules of the protocol, links, files, names, sequences."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.ablation import ABLATIONS
from tests.simulation.reshard_sequences import SEQUENCES
from tests.simulation.snapshot_sequences import SCENARIOS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "learner_worker"
PROTOCOL = ROOT / "docs/protocol.md"
RELIABILITY = ROOT / "docs/reliability.md"
_BUILT = {".venv", ".pytest_cache", "node_modules", "build", "dist", "target"}
_RULE = re.compile(r"\brule (\d+)\b", re.IGNORECASE)
_IN_CODE = re.compile(r"rule \d+ \(docs/protocol\.md\)")
_IN_PAGES = re.compile(r"\[rule \d+\]\((?:docs/)?protocol\.md#rule-\d+-[a-z-]+\)")
_ORDINAL = re.compile(r"\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth) rule\b")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
_PATH = re.compile(r"[\w/.-]*\w\.(?:py|sql)|(?:tests|deploy|docs|schemas)/[\w/.-]+")
_PLACE = re.compile(r"`([\w/]+\.py)`\s+\(((?:`\w+`,?\s*)+)\)")
_FAULTS = "## Faults that programs like this one are reported for\n"
_PLACEHOLDERS = {"schemas/released/VERSION/asyncapi.json"}


def _pages() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.md")) if not _BUILT & set(path.relative_to(ROOT).parts)]


def _modules() -> Iterator[Path]:
    for folder in (PACKAGE, ROOT / "tests"):
        yield from (path for path in folder.rglob("*.py") if not _BUILT & set(path.parts))


def _prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return "".join(page.read_text(encoding="utf-8").split("```")[::2])


@functools.cache
def _anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?)\s*$", _prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return frozenset(found)


def _titles() -> list[str]:
    return re.findall(r"^## Rule (\d+): ", PROTOCOL.read_text(encoding="utf-8"), re.MULTILINE)


def _text_of(path: Path) -> str:
    """With one space wherever a line is wrapped."""
    return re.sub(r"\s+#?\s*", " ", path.read_text(encoding="utf-8"))


def test_the_protocol_numbers_its_rules() -> None:
    """From 1 to 8, each a heading of its own."""
    assert _titles() == [str(number) for number in range(1, 9)]


@pytest.mark.parametrize("pattern", ["py", "md"])
def test_every_rule_that_is_cited_is_one_of_the_protocol(pattern: str) -> None:
    """In code as `rule N (docs/protocol.md)`, in pages as a link to its heading; never by an ordinal."""
    citing, form = (_modules(), _IN_CODE) if pattern == "py" else (iter(_pages()), _IN_PAGES)
    for path in citing:
        if path in {PROTOCOL, Path(__file__)}:
            continue
        text = _text_of(path)
        assert not _ORDINAL.search(text), path
        assert len(form.findall(text)) == len(_RULE.findall(text)), path
        assert set(_RULE.findall(text)) <= set(_titles()), path


def test_every_page_cites_rules_by_their_own_anchor() -> None:
    """The number that is read is the number that is linked."""
    for page in _pages():
        for said, linked in re.findall(r"\[[Rr]ule (\d+)[^\]]*\]\([^)#]*#rule-(\d+)-", _prose(page)):
            assert said == linked, page


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """Every link to a file or an anchor of this repository."""
    for target in _LINK.findall(_prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert not anchor or anchor in _anchors(there), target


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """Code, tests and documents; the changelog alone also names what is gone."""
    if page.name == "CHANGELOG.md":
        return
    for span in re.findall(r"`([^`\n]+)`", _prose(page)):
        if _PATH.fullmatch(span) and span not in _PLACEHOLDERS:
            assert _is_there(span, page), span


def _is_there(name: str, page: Path) -> bool:
    """From the root, the package or the page; a bare name in the package or in the page's own blocks."""
    if any((folder / name).exists() for folder in (ROOT, PACKAGE, page.parent)):
        return True
    written = "".join(page.read_text(encoding="utf-8").split("```")[1::2])
    return "/" not in name and (any(PACKAGE.rglob(name)) or name in written)


def test_the_protocol_names_code_that_is_there() -> None:
    """Each function and class in the file it is said to be in."""
    places = _PLACE.findall(PROTOCOL.read_text(encoding="utf-8"))
    assert len(places) > len(_titles())
    for name, symbols in places:
        code = (PACKAGE / name).read_text(encoding="utf-8")
        for symbol in re.findall(r"\w+", symbols):
            assert re.search(rf"\b(?:def|class) {symbol}\b", code), f"{name}: {symbol}"


def test_the_protocol_names_sequences_and_ablations_that_are_there() -> None:
    """Every long name in code style is a directed sequence, every quoted safeguard an ablation."""
    text = _text_of(PROTOCOL)
    sequences = set(re.findall(r"`([a-z]+(?:_[a-z]+){3,})`", text))
    safeguards = [name for name in re.findall(r'"([^"]+)"', text) if not _RULE.fullmatch(name)]

    assert sequences
    assert sequences <= SCENARIOS.keys() | SEQUENCES.keys()
    assert safeguards
    assert set(safeguards) <= ABLATIONS.keys()


def test_the_table_of_faults_names_tests_that_are_there() -> None:
    """Of each kind the case itself and at least three beside it, each once, in the file that is named."""
    section = RELIABILITY.read_text(encoding="utf-8").partition(_FAULTS)[2].partition("\n## ")[0]
    kinds = [line for line in section.splitlines() if "::" in line]

    assert len(kinds) == 9
    for kind in kinds:
        named = re.findall(r"`([^`]+\.py)::(test_\w+)`", kind)
        assert len(set(named)) == len(named) == kind.count("::") > 3, kind
        for path, name in named:
            code = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^(?:async )?def {name}\(", code, re.MULTILINE), f"{path}: {name}"
