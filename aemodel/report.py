"""A run as one HTML page that loads nothing: what went in, how it was learned, what it is worth, what is strange."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aemodel import charts
from aemodel.card import NONLINEAR, LatentCard
from aemodel.charts import Bar, Line
from aemodel.evaluation import Evaluation
from aemodel.gate import Verdict
from aemodel.schema import Column, TableSchema
from aemodel.scoring import StrangeRow

DRAWN_POINTS = 3_000
DRAWN_COLUMNS = 60
#: Cards that are drawn, and what is shown of their lists; the rest is in the table of cards.
DRAWN_CARDS = 64
CARD_BARS, CARD_CHANGES, CARD_ROWS, CARD_CELLS = 6, 6, 2, 6
#: A driver of a smaller share would be written 0.00.
LEAST_SHARE = 0.005
#: Labels beyond this number cannot be told apart by colour.
COLOURED_LABELS = 10


@dataclass(frozen=True)
class Report:
    """`latents` (rows, k), `ranks` (rows,) and `labels` (rows) are of the same held-out rows, in order."""

    name: str
    version: str
    created: str
    dataset: str
    num_training: int
    num_held_out: int
    held_out_is_training: bool
    schema: TableSchema
    statistics: dict[str, Any]
    nulled: dict[str, int]
    evaluation: Evaluation
    verdict: Verdict
    journal: tuple[dict[str, Any], ...]
    latents: np.ndarray
    ranks: np.ndarray
    label_name: str | None
    labels: tuple[str | None, ...] | None
    strangest: tuple[StrangeRow, ...]
    cards: tuple[LatentCard, ...]
    seconds: dict[str, float]

    @property
    def measured_rows(self) -> str:
        """What the figures are of."""
        return "the training rows (too few to hold any out)" if self.held_out_is_training else "held-out rows"


@dataclass(frozen=True)
class InputRow:
    """One line of the table of inputs, as text."""

    name: str
    kind: str
    type: str
    missing: str
    holds: str
    nulled: int
    r2: float | None
    r2_pca: float | None


@dataclass(frozen=True)
class Legend:
    """What the points' colours mean: (style attribute, text) pairs, and what they colour by."""

    by: str
    entries: tuple[tuple[str, str], ...]


def render(report: Report) -> str:
    """The page. All text from the data is escaped."""
    environment = Environment(loader=PackageLoader("aemodel", ""), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    picture, legend = _latent_picture(report)
    shown, hidden = _column_bars(report.evaluation)
    page = environment.get_template("report.html.j2").render(
        report=report,
        tiles=_tiles(report),
        inputs=_inputs(report),
        loss_chart=_loss_chart(report),
        column_chart=charts.bars(shown),
        columns_hidden=hidden,
        latent_chart=picture,
        legend=legend,
        health=_health(report.evaluation),
        strangest=[_strange(row) for row in report.strangest],
        cards=[_card(card) for card in report.cards[:DRAWN_CARDS]],
    )
    return page + "\n"


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """(figure, what it is, a note) of the page's head."""
    found, rank = report.evaluation, report.evaluation.latents.effective_rank
    held_out = "too few to hold any out" if report.held_out_is_training else f"{report.num_held_out:,} held out"
    return [
        (f"{report.num_training:,}", "training rows", held_out),
        (f"{found.r2:.3f}", f"R² on {report.measured_rows}", "mean over source columns"),
        (f"{found.r2_pca:.3f}", "R² of PCA", f"same {len(found.latents.std)} dimensions, same rows"),
        (f"{found.r2 - found.r2_pca:+.3f}", "gain over PCA", "more variance explained"),
        *([] if report.held_out_is_training else _gap(found)),
        (f"{rank:.1f}", "effective rank", f"of {len(found.latents.std)} latents"),
    ]


def _gap(found: Evaluation) -> list[tuple[str, str, str]]:
    if found.r2_training is None:
        return []
    gap = found.r2_training - found.r2
    return [(f"{gap:+.3f}", "overfitting", "R² on training rows less that on held-out ones")]


def _inputs(report: Report) -> list[InputRow]:
    scores = {c.column: c for c in report.evaluation.columns}
    rows = []
    for column in report.schema.inputs:
        facts, score = report.statistics[column.name], scores[column.name]
        share = facts["missing"] / max(1, facts["rows"])
        missing = f"{share:.1%}" if facts["missing"] else "–"
        nulled = report.nulled.get(column.name, 0)
        rows.append(
            InputRow(
                column.name, column.kind, column.type, missing, _holds(column, facts), nulled, score.r2, score.r2_pca
            )
        )
    return rows


def _holds(column: Column, facts: dict[str, Any]) -> str:
    if "distinct" in facts:
        first = ", ".join(str(level) for level in list(facts["levels"])[:3])
        return f"{facts['distinct']:,} values: {first[:60]}{' …' if facts['distinct'] > 3 else ''}"
    if "least" not in facts:
        return ""
    if column.kind == "datetime":
        return f"{_moment(column, facts['least'])} to {_moment(column, facts['largest'])}"
    return f"{facts['least']:.4g} to {facts['largest']:.4g}"


def _moment(column: Column, seconds: float) -> str:
    day, _, clock = str(np.datetime64(round(seconds), "s")).partition("T")
    return clock if column.type.startswith("time") and not column.type.startswith("timestamp") else f"{day} {clock}"


def _loss_chart(report: Report) -> Markup:
    def line(event: str, name: str, style: str) -> Line:
        points = [(e["step"], e["loss"]) for e in report.journal if e["event"] == event and math.isfinite(e["loss"])]
        kept = points[:: max(1, len(points) // 400)] if points else []
        return Line(name, style, tuple(p[0] for p in kept), tuple(p[1] for p in kept))

    return charts.curves(
        [line("epoch", "training, inputs corrupted", "theirs"), line("held_out", report.measured_rows, "ours")], "step"
    )


def _column_bars(found: Evaluation) -> tuple[list[Bar], int]:
    """Columns by falling gain over PCA; of very many, the first and the last of them, and how many are not shown."""
    ordered = sorted(found.columns, key=lambda c: (c.r2 or 0.0) - (c.r2_pca or 0.0), reverse=True)
    rows = [Bar(c.column, c.r2, c.r2_pca) for c in ordered]
    if len(rows) <= DRAWN_COLUMNS:
        return rows, 0
    half = DRAWN_COLUMNS // 2
    return rows[:half] + rows[-half:], len(rows) - DRAWN_COLUMNS


def _latent_picture(report: Report) -> tuple[Markup, Legend]:
    """The latents on their first two principal axes, coloured by the label, or by how strange a row is."""
    # A latent that overflowed must not cost the page: it is drawn in the middle.
    latents = np.nan_to_num(report.latents[:DRAWN_POINTS].astype(np.float64), posinf=0.0, neginf=0.0)
    std = latents.std(axis=0) if len(latents) else np.ones(latents.shape[1])
    scaled = (latents - latents.mean(axis=0, keepdims=True)) / np.where(std > 0, std, 1.0) if len(latents) else latents
    if scaled.shape[1] > 2:
        axes = np.linalg.svd(scaled, full_matrices=False)[2][:2]
        scaled = scaled @ axes.T
    plane = np.pad(scaled, ((0, 0), (0, max(0, 2 - scaled.shape[1]))))[:, :2]
    styles, legend = _colours(report, len(plane))
    return charts.scatter(plane, styles), legend


def _colours(report: Report, count: int) -> tuple[list[str], Legend]:
    if report.labels is not None and report.label_name is not None:
        numbers = _numbers(report.labels[:count])
        if numbers is not None:
            return _shades_of_number(numbers, report.label_name)
        labels = [label if label is not None else "missing" for label in report.labels[:count]]
        common = [label for label, _ in Counter(labels).most_common(COLOURED_LABELS)]
        places = {label: f'class="c{index}"' for index, label in enumerate(common)}
        entries = [(places[label], label[:40]) for label in common]
        if len(set(labels)) > len(common):
            entries.append(('class="other"', "others"))
        return [places.get(label, 'class="other"') for label in labels], Legend(report.label_name, tuple(entries))
    shades = [f'class="s{min(4, int(rank * 5))}"' for rank in np.nan_to_num(report.ranks[:count]).tolist()]
    entries = [(f'class="s{i}"', f"{i * 20}–{i * 20 + 20} %") for i in range(5)]
    return shades, Legend(f"how strange a row is among {report.measured_rows}", tuple(entries))


def _numbers(labels: tuple[str | None, ...]) -> np.ndarray | None:
    """Labels as float64 (rows,), NaN where missing; None where they are few enough to be classes, or no numbers."""
    if len(set(labels)) <= COLOURED_LABELS:
        return None
    try:
        numbers = np.array([math.nan if label is None else float(label) for label in labels])
    except ValueError:
        return None
    return np.where(np.isfinite(numbers), numbers, math.nan) if np.isfinite(numbers).any() else None


def _shades_of_number(numbers: np.ndarray, name: str) -> tuple[list[str], Legend]:
    """Five shades by quantile, since a linear scale would show one outlier and nothing else."""
    edges = np.nanquantile(numbers, np.linspace(0, 1, 6))
    places = np.searchsorted(edges[1:-1], numbers, side="right")
    styles = ['class="other"' if math.isnan(n) else f'class="s{i}"' for n, i in zip(numbers, places, strict=True)]
    entries = [(f'class="s{i}"', f"{edges[i]:.4g} to {edges[i + 1]:.4g}") for i in range(5)]
    if np.isnan(numbers).any():
        entries.append(('class="other"', "missing"))
    return styles, Legend(name, tuple(entries))


def _health(found: Evaluation) -> list[str]:
    health = found.latents
    dead = ", ".join(str(i) for i in health.dead) or "none"
    pairs = ", ".join(f"{a} and {b}" for a, b in health.duplicates) or "none"
    return [f"dead latents: {dead}", f"pairs with |r| > 0.95: {pairs}", f"effective rank {health.effective_rank:.1f}"]


def _strange(row: StrangeRow) -> dict[str, Any]:
    """A row's cells, those of the reasons first."""
    cells = dict(row.cells)
    because = [(name, cells.get(name, ""), e) for name, e in zip(row.reasons, row.expected, strict=True)]
    others = [(name, text) for name, text in row.cells if name not in row.reasons][:24]
    return {"error": f"{row.error:,.1f}", "rank": f"{row.rank:.1%}", "because": because, "others": others}


def _card(card: LatentCard) -> dict[str, Any]:
    """A feature column's card, its lists cut to what fits in the eye."""
    figures = [
        ("R² of its name" if card.name != NONLINEAR else "R² of its best terms", card.surrogate_r2),
        ("non-linear share", card.nonlinear_share),
        ("robustness", card.robustness),
        ("nested gain", card.nested_gain),
        ("std", card.std),
    ]
    ends = (("high", card.exemplars_high), ("low", card.exemplars_low))
    return {
        "column": card.column,
        "name": card.name,
        "figures": [(what, "–" if value is None else f"{value:.3f}") for what, value in figures],
        "drivers": charts.weights([(d.input, d.share) for d in card.drivers[:CARD_BARS] if d.share >= LEAST_SHARE]),
        "loadings": charts.weights([(e.term, e.weight) for e in card.loadings[:CARD_BARS]]),
        "traversal": card.traversal[:CARD_CHANGES],
        "ends": [(end, [r.cells[:CARD_CELLS] for r in rows[:CARD_ROWS]]) for end, rows in ends],
    }
