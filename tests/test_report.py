from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from aemodel.card import Cell, Change, Exemplar, Gain, LatentCard, Loading, Share
from aemodel.evaluation import ColumnScore, Evaluation, LatentHealth
from aemodel.gate import Rule, Verdict, refused
from aemodel.leaks import Determined
from aemodel.report import CARD_BARS, DRAWN_CARDS, DRAWN_COLUMNS, Report, render
from aemodel.schema import Column, LeftOut, TableSchema
from aemodel.scoring import StrangeRow

EVIL = "<script>alert(1)</script>\"'&"


def _latent_card(column: str, name: str = "+c0 −c1", text: str = "c0") -> LatentCard:
    rows = (Exemplar(2.0, (Cell("id", "o7"), Cell(text, "99"))),)
    return LatentCard(
        column,
        name,
        0.84,
        0.021,
        None,
        1.2,
        0.11,
        loadings=tuple(Loading(text, f"{text}", -0.5) for _ in range(30)),
        drivers=(Share(text, 0.62), Share("slight", 0.001)),
        gains=(Gain(text, 0.4),),
        traversal=(Change(text, f"{text}=shop", "12%", "80%", 0.68),),
        exemplars_low=rows,
        exemplars_high=rows,
    )


def _report(columns: int = 3, rows: int = 200, latents: int = 4) -> Report:
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(columns)]
    scores = tuple(ColumnScore(n, "numeric", 0.9 - i / 1e4, 0.8) for i, n in enumerate(names))
    health = LatentHealth(tuple([1.0] * latents), (1,), ((0, 2),), 3.5)
    return Report(
        name="orders",
        version="7",
        created="2026-01-01T00:00:00+00:00",
        dataset="data/orders",
        num_training=1_800,
        num_held_out=rows,
        held_out_is_training=False,
        schema=TableSchema(
            tuple(Column(n, "numeric", type="double") for n in names),
            (LeftOut("id", "string", "a key"),),
            ("id",),
            None,
        ),
        statistics={
            n: {"kind": "numeric", "rows": 1_800, "missing": 18, "least": -1.0, "largest": 12.5} for n in names
        },
        nulled={names[0]: 5},
        evaluation=Evaluation(rows, 0.9, 0.8, scores, health),
        verdict=Verdict((Rule("R² against PCA", True, "held-out R² 0.9 against 0.8"),)),
        journal=tuple({"event": e, "step": s, "loss": 1 / (s + 1)} for s in (10, 20) for e in ("epoch", "held_out")),
        latents=rng.normal(size=(rows, latents)),
        ranks=rng.random(rows),
        label_name=None,
        labels=None,
        strangest=(StrangeRow(12.0, 0.999, ("c0",), ("7",), (("id", "o1"), ("c0", "99"))),),
        cards=tuple(_latent_card(f"ae_{i:02d}") for i in range(latents)),
        seconds={"train": 3.2},
    )


def test_the_page_has_every_section_and_the_figures() -> None:
    page = render(_report())
    for section in ("strangest", "columns", "cards", "latents", "loss", "inputs", "left-out"):
        assert f'id="{section}"' in page
    for figure in (
        "1,800",
        "0.900",
        "0.800",
        "+0.100",
        "gate passed",
        "-1 to 12.5",
        "1.0%",
        "a key",
        "0 and 2",
        "dead latents: 1",
    ):
        assert figure in page, figure


def test_each_latent_has_its_card_with_figures_bars_changes_and_rows() -> None:
    page = render(_report(latents=4))
    assert page.count('class="card latent"') == 4
    for text in (
        "ae_03",
        "+c0 −c1",
        "<b>0.840</b>",
        "robustness <b>–</b>",
        "12% → 80%",
        "<span>id</span> o7",
        ">0.62<",
    ):
        assert text in page, text
    assert page.count(">−0.50<") == 4 * CARD_BARS and "slight" not in page


def test_of_very_many_latents_the_first_have_a_card_and_the_rest_is_told_of() -> None:
    page = render(replace(_report(), cards=tuple(_latent_card(f"ae_{i:03d}") for i in range(300))))
    assert page.count('class="card latent"') == DRAWN_CARDS and f"The first {DRAWN_CARDS} of 300" in page


def test_overfitting_and_columns_given_away_are_told() -> None:
    report = _report()
    leak = Determined("c1", "c0", 0.9999)
    page = render(replace(report, evaluation=replace(report.evaluation, r2_training=0.93, determined=(leak,))))
    assert "+0.030" in page and "<b>c1</b> by c0 (R² 0.9999)" in page


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = render(_report())
    assert not re.search(r"""(src|href)\s*=|@import|url\(""", page)
    assert "<script" not in page


def test_names_and_cells_cannot_become_markup() -> None:
    report = _report()
    schema = replace(
        report.schema, inputs=(Column(EVIL, "categorical", type=EVIL),), left_out=(LeftOut(EVIL, EVIL, EVIL),)
    )
    page = render(
        replace(
            report,
            name=EVIL,
            dataset=EVIL,
            schema=schema,
            statistics={EVIL: {"kind": "categorical", "rows": 9, "missing": 0, "distinct": 2, "levels": {EVIL: 9}}},
            nulled={},
            evaluation=replace(report.evaluation, columns=(ColumnScore(EVIL, "categorical", 0.5, 0.4),)),
            label_name=EVIL,
            labels=tuple([EVIL] * 200),
            strangest=(StrangeRow(1.0, 1.0, (EVIL,), (EVIL,), ((EVIL, EVIL),)),),
            cards=(_latent_card(EVIL, EVIL, EVIL),),
        )
    )
    assert "<script" not in page and "alert(1)" in page


def test_points_are_coloured_by_the_label_with_the_rest_as_others() -> None:
    labels = tuple(["web", "shop", None, *[f"l{i}" for i in range(17)]] * 10)
    page = render(replace(_report(), label_name="channel", labels=labels))
    assert "coloured by channel" in page and "missing" in page and "others" in page
    assert page.count('class="c0" cx') == 10


def test_points_are_shaded_by_a_numeric_label_of_many_values() -> None:
    labels = (None, *(str(i * 0.5) for i in range(199)))
    page = render(replace(_report(), label_name="price", labels=labels))
    shades = [page.count(f'class="s{i}" cx') for i in range(5)]
    assert sum(shades) == 199 and max(shades) - min(shades) <= 2
    assert page.count('class="other" cx') == 1 and "0 to 19.8" in page and "others" not in page


def test_few_numeric_labels_are_classes() -> None:
    page = render(replace(_report(), label_name="churned", labels=tuple(str(i % 2) for i in range(200))))
    assert page.count('class="c0" cx') == page.count('class="c1" cx') == 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_and_ranks_that_are_no_numbers_do_not_cost_the_page(bad: float) -> None:
    report = _report()
    report.latents[3, 1] = bad
    page = render(replace(report, ranks=np.full(200, np.nan)))
    assert page.count("<circle") == 200 and "nan" not in page.lower()


def test_without_a_label_points_are_coloured_by_how_strange_they_are() -> None:
    report = replace(_report(), ranks=np.linspace(0, 1, 200))
    page = render(report)
    assert page.count('class="s4" cx') == 40


def test_a_refused_gate_is_seen_with_its_reasons() -> None:
    page = render(replace(_report(), verdict=refused("R² is below PCA")))
    assert "gate refused" in page and "R² is below PCA" in page


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("latents", [1, 2, 3])
def test_tiny_tables_have_a_page_too(rows: int, latents: int) -> None:
    report = _report(rows=rows, latents=latents)
    flat = replace(
        report.evaluation, columns=tuple(ColumnScore(c.column, c.kind, None, None) for c in report.evaluation.columns)
    )
    page = render(replace(report, evaluation=flat, journal=(), strangest=(), held_out_is_training=True))
    assert (
        "No step was recorded" in page
        and "does not vary here" in page
        and "nan" not in page.lower().replace("explanan", "")
    )


def test_a_page_of_a_table_too_small_to_hold_rows_out_does_not_speak_of_held_out_rows() -> None:
    report = _report()
    measured = replace(report.evaluation, r2_training=0.9)
    page = render(replace(report, evaluation=measured, held_out_is_training=True, verdict=Verdict(())))
    assert "R² on the training rows (too few to hold any out)" in page
    assert "held-out" not in page.lower() and "overfitting" not in page


def test_a_loss_that_is_not_a_number_is_not_drawn() -> None:
    journal = ({"event": "epoch", "step": 1, "loss": float("nan")}, {"event": "epoch", "step": 2, "loss": 0.5})
    assert "nan" not in render(replace(_report(), journal=journal)).lower()


def test_a_very_wide_table_keeps_its_page_small_and_lists_every_column() -> None:
    page = render(_report(columns=1_000))
    assert len(page) < 2_000_000
    assert f"{1_000 - DRAWN_COLUMNS} between them" in page
    assert page.count('<td class="name">c') == 1_000
