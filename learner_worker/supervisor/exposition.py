"""Joins the metrics of several processes into one page, in Prometheus' text format.

Each sample gets the label `process`. Sums would be wrong: a process that starts again begins its counters at
zero, and most gauges (a time, a version, a lag) cannot be added.
"""

from collections.abc import Iterator, Mapping


def joined(pages: Mapping[str, str]) -> str:
    """One page of all processes' pages, each given by its process; a family stays in one piece."""
    families: dict[str, list[str]] = {}
    headers: dict[str, list[str]] = {}
    for process, page in pages.items():
        for name, header, samples in _families(page):
            headers.setdefault(name, header)
            families.setdefault(name, []).extend(_labelled(sample, process) for sample in samples)
    lines = (line for name, samples in families.items() for line in (*headers[name], *samples))
    return "".join(f"{line}\n" for line in lines)


def _families(page: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each family's name, its lines of help and type, and its samples."""
    name, header, samples = "", list[str](), list[str]()
    for line in page.splitlines():
        if line.startswith("# HELP "):
            if name:
                yield name, header, samples
            name, header, samples = line.split(" ", 3)[2], [line], []
        elif line.startswith("#"):
            header.append(line)
        elif line:
            samples.append(line)
    if name:
        yield name, header, samples


def _labelled(sample: str, process: str) -> str:
    """A sample with its process: before its other labels, whose values may hold any character."""
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{process}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{process="{process}"}} {value}'
