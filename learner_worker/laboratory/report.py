"""The findings as one HTML file: pictures and tables, for light and dark, without any request."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

from learner_worker.laboratory.charts import COLOURS, curves, forest
from learner_worker.laboratory.findings import Findings, Overall, Row
from learner_worker.laboratory.intervals import Interval
from learner_worker.laboratory.tables import WHO_ASKS, shown, times
from learner_worker.laboratory.trials import ORACLE, Population

_LIGHT: Final = ("#7a7a7a", "#b35900", "#0b6fb8", "#00806a", "#a3338a", "#8a6d00", "#5b4bc4", "#b3263b")
_DARK: Final = ("#a8a8a8", "#ff9d42", "#5cb8ff", "#35d0b0", "#f08ad8", "#e0c050", "#a99cff", "#ff8090")
_STYLE: Final = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1c1c; --dim: #666; --grid: #e3e3e3; --zero: #555;
  --better: #00702a; --worse: #b00020; --card: #f6f6f6; LIGHT }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e8e8e8; --dim: #a0a0a0;
  --grid: #33373c; --zero: #b0b0b0; --better: #5fd38a; --worse: #ff7b8a; --card: #202328; DARK } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 980px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } p.dim, caption { color: var(--dim); }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--text); } svg text.name { text-anchor: end; }
svg text.tick { text-anchor: middle; fill: var(--dim); }
svg line.grid { stroke: var(--grid); } svg line.zero { stroke: var(--zero); stroke-width: 1.4; }
svg g line { stroke: var(--c); stroke-width: 2; } svg g line.bar { stroke-width: 1; opacity: .55; }
svg g circle { fill: var(--c); } svg g polyline { fill: none; stroke: var(--c); stroke-width: 2; }
ul.key { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; }
ul.key li::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 50%;
  margin-right: .4em; background: var(--c); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .18rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; }
td.better { color: var(--better); } td.worse { color: var(--worse); }
details { background: var(--card); padding: .4rem .8rem; border-radius: 6px; margin: .6rem 0; }
summary { cursor: pointer; }
COLOURS
"""


def report(*parts: Findings) -> str:
    """The whole page, a part after the other."""
    title = "learner-worker lab: what it earns to ask"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_style()}</style></head><body>",
            *[line for part in parts for line in _part(title, part)],
            "</body></html>",
            "",
        ]
    )


def _part(title: str, findings: Findings) -> Iterator[str]:
    names = list(findings.markets)
    yield f"<h1>{title}{f', market {escape(names[0])}' if len(names) == 1 else ''}</h1>"
    yield from _opening(findings)
    for population in findings.populations:
        yield from _population(findings, population)
    yield from _learning(findings)
    yield from _buyers(findings)
    yield from _markets(findings)


def _style() -> str:
    light = " ".join(f"--c{number}: {colour};" for number, colour in enumerate(_LIGHT))
    dark = " ".join(f"--c{number}: {colour};" for number, colour in enumerate(_DARK))
    colours = "\n".join(f".c{number} {{ --c: var(--c{number}); }}" for number in range(COLOURS))
    return _STYLE.replace("LIGHT", light).replace("DARK", dark).replace("COLOURS", colours)


def _opening(findings: Findings) -> Iterator[str]:
    yield (
        '<p class="dim">Gains are sats of profit more than by the base bid, per 100 sats of base bid of the '
        f"auctions entered. {findings.seeds} seeds from {findings.first_seed}; every way of bidding meets "
        "the same tasks and luck. Intervals are 95 %, of paired differences. A * marks markets that may be "
        "looked at while a strategy is made; the others are held out for the verdict.</p>"
    )
    yield '<ul class="key">'
    for number, label in enumerate(findings.contenders):
        yield f'<li class="c{number % COLOURS}">{escape(label)}</li>'
    yield "</ul>"
    yield from _summary(findings)


def _summary(findings: Findings) -> Iterator[str]:
    if not findings.overall:
        return
    yield "<h2>All markets together</h2>"
    head = ("", "who asks", "markets", "mean gain", "seeds won", "better / worse in", "first 20 bids")
    yield from _table(
        head,
        [_summary_cells(one) for one in findings.overall if one.contender != ORACLE],
        "Intervals over markets.",
    )


def _summary_cells(one: Overall) -> list[str]:
    verdict = "better" if one.gain.is_clearly_positive else "worse" if one.gain.is_clearly_negative else ""
    return [
        f"<td>{escape(one.contender)}</td>",
        f"<td>{one.population}</td>",
        f"<td>{one.markets}</td>",
        f'<td class="{verdict}">{shown(one.gain)}</td>',
        f"<td>{100 * one.won:.0f} %</td>",
        f"<td>{one.better} / {one.worse}</td>",
        f"<td>{shown(one.cold)}</td>",
    ]


def _population(findings: Findings, population: Population) -> Iterator[str]:
    yield f"<h2>{escape(WHO_ASKS[population])}</h2>"
    yield forest(findings, population)
    labels = [*findings.contenders, *([ORACLE] if population == "one" else [])]
    rows = [
        [
            f"<td>{_starred(findings, market)}</td>",
            *(_gain(findings.row(market, population, label)) for label in labels),
        ]
        for market in findings.markets
    ]
    yield "<details><summary>Figures: mean, interval, share of seeds that gained</summary>"
    yield from _table(["", *labels], rows)
    yield "</details>"
    if population == "one":
        yield from _cold_and_regret(findings)


def _starred(findings: Findings, market: str) -> str:
    known = next((row for row in findings.rows if row.market == market), None)
    return escape(market) + (" *" if known is not None and not known.held_out else "")


def _gain(row: Row | None) -> str:
    if row is None:
        return "<td>-</td>"
    return f'<td class="{row.verdict}">{shown(row.gain)} · {100 * row.won:.0f} %</td>'


def _cold_and_regret(findings: Findings) -> Iterator[str]:
    """Of the first bids, and beside the oracle."""
    for title, figure in (
        ("Cold start: gain in the first 20 bids", _cold),
        ("Regret: what the oracle earns more", _regret),
    ):
        yield f"<details><summary>{title}</summary>"
        rows = [
            [
                f"<td>{_starred(findings, market)}</td>",
                *(f"<td>{figure(findings.row(market, 'one', label))}</td>" for label in findings.contenders),
            ]
            for market in findings.markets
        ]
        yield from _table(["", *findings.contenders], rows)
        yield "</details>"


def _cold(row: Row | None) -> str:
    return "-" if row is None else shown(row.cold)


def _regret(row: Row | None) -> str:
    return "-" if row is None or row.regret is None else shown(row.regret)


def _learning(findings: Findings) -> Iterator[str]:
    for population in findings.populations:
        picture = curves(findings, population)
        if picture and population in {"one", "all", "siblings"}:
            yield f"<h2>Learning curve: {escape(WHO_ASKS[population].lower())}</h2>"
            yield (
                '<p class="dim">Gain in each tenth of the run, mean of the markets; bars: interval over '
                "markets.</p>"
            )
            yield picture


def _buyers(findings: Findings) -> Iterator[str]:
    if "all" not in findings.populations:
        return
    yield "<h2>What buyers and the swarm see when all ask</h2>"
    yield (
        '<p class="dim">Beside the same market where nobody asks. Price and effort are for a done task, '
        "failed ones included.</p>"
    )
    head = (
        "",
        "done, static",
        "done",
        "price",
        "effort",
        "done tasks",
        "agents' profit, static",
        "agents' profit",
    )
    rows = []
    for label in findings.contenders:
        for market in findings.markets:
            row = findings.row(market, "all", label)
            if row is not None and row.buyers is not None:
                rows.append(_buyers_cells(row, f"{escape(label)}, {_starred(findings, market)}"))
    yield "<details open><summary>By way of bidding and market</summary>"
    yield from _table(head, rows)
    yield "</details>"


def _buyers_cells(row: Row, name: str) -> list[str]:
    seen = row.buyers
    if seen is None:
        return []
    return [
        f"<td>{name}</td>",
        f"<td>{seen.done_share_static:.0f} %</td>",
        f"<td>{seen.done_share:.0f} % ({shown(seen.done_share_difference, 1)})</td>",
        *(f"<td>{times(ratio)}</td>" for ratio in (seen.price, seen.effort, seen.tasks)),
        *(f"<td>{_level(level)}</td>" for level in (row.static_profit, row.profit)),
    ]


def _level(value: Interval) -> str:
    return shown(value)


def _markets(findings: Findings) -> Iterator[str]:
    yield "<h2>The markets</h2>"
    rows = [
        [f"<td>{_starred(findings, name)}</td>", f'<td style="text-align:left">{escape(about)}</td>']
        for name, about in findings.markets.items()
    ]
    yield from _table(("", "what is special"), rows)


def _table(head: Iterable[str], rows: Sequence[Sequence[str]], caption: str = "") -> Iterator[str]:
    yield '<div class="wide"><table>'
    if caption:
        yield f"<caption>{escape(caption)}</caption>"
    yield "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
    for row in rows:
        yield f"<tr>{''.join(row)}</tr>"
    yield "</table></div>"
