from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from aemodel.card.terms import Term
from benchmarks.cards import holds, stated
from benchmarks.results import FeatureResults
from benchmarks.speed import tables, training
from benchmarks.speed.measure import Measured, Method, in_turn
from benchmarks.speed.setting import Setting

OURS = "aemodel, plain, batch 1024, float32"


def names(found: Sequence[Measured]) -> list[str]:
    return [one.method for one in found]


def test_tables_are_seeded_and_written_once(tmp_path: Path) -> None:
    first = tables.numbers(tmp_path / "a", 1_000, 5)
    written = sorted(first.glob("*.parquet"))
    before = [file.stat().st_mtime_ns for file in written]
    assert tables.numbers(tmp_path / "a", 1_000, 5) == first
    assert [file.stat().st_mtime_ns for file in written] == before
    again = ds.dataset(tables.numbers(tmp_path / "b", 1_000, 5)).to_table()
    assert ds.dataset(first).to_table().equals(again)
    assert (len(written), again.num_rows, again.column_names) == (
        8,
        1_000,
        ["id", "x000", "x001", "x002", "x003", "x004"],
    )


def test_levels_follow_the_causes_of_the_numbers(tmp_path: Path) -> None:
    rows = ds.dataset(tables.mixed(tmp_path, 4_000)).to_table()
    assert len(pc.unique(rows["c000"])) == 2
    assert len(pc.unique(rows["c019"])) > 2_000
    second = np.array(pc.equal(rows["c000"], "level-1"))
    between = [abs(np.corrcoef(second, rows[f"x{i:03d}"].to_numpy())[0, 1]) for i in range(tables.NUMERIC)]
    assert max(between) > 0.3


def test_methods_run_in_turn_and_what_cannot_is_named(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text("print('hello'); print('{\"rows/s\": 2.0}')")
    (tmp_path / "bad.py").write_text("raise ValueError('no such thing')")
    methods = [
        Method("a", ("told",)),
        Method("absent", ("told",), ("no_such_package",)),
        Method("bad", ("bad",), ("json",)),
        Method("b", ("told",)),
    ]
    found = list(in_turn(methods, 2, tmp_path))
    assert names(found) == ["absent", "a", "bad", "b", "a", "b"]
    assert [one.skipped for one in found[:3]] == [
        "not installed: no_such_package",
        "",
        "failed: ValueError: no such thing",
    ]
    assert found[1].figures == {"rows/s": 2.0}


def test_what_fails_of_ours_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise ValueError('no such thing')")
    with pytest.raises(RuntimeError, match="no such thing"):
        list(in_turn([Method("aemodel", ("bad",))], 1, tmp_path))


def test_a_small_training_beside_a_loop(tmp_path: Path) -> None:
    setting = Setting(tmp_path, rows=5_000, repeats=1, methods=(training.BASELINE, OURS))
    loop, ours = list(training.measured(setting))
    assert (loop.method, ours.method) == (training.BASELINE, OURS)
    for one in (loop, ours):
        assert one.figures["rows/s"] > 0
        assert 0 < one.figures["loss"] < 1.1
        assert one.peak_mb and one.peak_mb > 50


def test_the_report_keeps_other_sections(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.speed import report, scoring

    ours = [Measured("aemodel, features", i, 2.0, 100.0, {"rows/s": 30.0 + i}) for i in range(3)]
    base = [Measured(scoring.BASELINE, i, 1.0, 50.0, {"rows/s": 60.0}) for i in range(3)]
    absent = Measured("Ray Data map_batches", 0, skipped="not installed: ray")
    report.write({"scoring": [absent, *base, *ours]}, tmp_path)
    growth = Measured("aemodel, by rows, 10 × 2", 0, 3.0, 90.0, {"kind": "by rows", "rows": 10, "scoring": 0.5})
    stages = {"preparing": 0.1, "one epoch": 0.2}
    report.write({"growth": [Measured(growth.method, 0, 3.0, 90.0, growth.figures | stages)]}, tmp_path)
    page = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| aemodel, features | 0.5167 | 31 | 2 | 100 |" in page
    assert "- Skipped: Ray Data map_batches (not installed: ray)" in page
    assert "## Whole jobs by size" in page
    assert (tmp_path / "speed.png").stat().st_size > 1_000


def test_a_speed_is_told_as_a_multiple_of_the_loop_of_the_same_batch() -> None:
    import pandas as pd

    from benchmarks.speed.report import medians, with_ratio

    speeds = {training.BASELINE: 10.0, training.LARGE_BASELINE: 20.0, "aemodel, batch 4096": 30.0, "aemodel, auto": 5.0}
    rows = pd.DataFrame(
        [{"method": m, "repeat": 0, "rows/s, first epoch": s / 2, "rows/s": s} for m, s in speeds.items()]
    )
    told = with_ratio(medians(rows), rows, training.baseline).set_index("method")
    assert told["× baseline's"].tolist() == [1, 1, 1.5, 0.5]
    assert told["× baseline's, first epoch"].tolist() == [0.5, 0.5, 0.75, 0.25]


def test_losses_are_compared_seed_by_seed() -> None:
    import pandas as pd

    from benchmarks.speed import seeds

    losses = {
        training.LARGE_BASELINE: [1.0, 3.0],
        "aemodel, plain, batch 4096, float32": [1.0, 4.0],
        "aemodel, plain, batch 4096, bfloat16": [1.1, 4.0],
    }
    rows = [{"method": m, "repeat": s, "loss": one} for m, many in losses.items() for s, one in enumerate(many)]
    told = seeds.told(pd.DataFrame(rows)).set_index("method")
    assert told["loss"].tolist() == [2, 2.5, 2.55]
    assert told["× the loop's"].tolist() == pytest.approx([1, 7 / 6, (1.1 + 4 / 3) / 2])
    assert told["± of × the loop's"].tolist()[:2] == pytest.approx([0, 1 / 6])
    assert told["× own float32's"].tolist()[1:] == pytest.approx([1, 1.05])


def test_losses_are_compared_when_the_reference_ends(tmp_path: Path) -> None:
    import pandas as pd

    from benchmarks.speed.curves import REFERENCE, at_end_of_epoch

    def row(method: str, curve: list[tuple[float, float]]) -> dict[str, object]:
        return {"method": method, "repeat": 0, "curve": json.dumps(curve)}

    rows = [row(REFERENCE, [(1, 0.5), (2, 0.3)]), row("aemodel", [(0, 1.0), (1.5, 0.2), (3.0, 0.1)])]
    told = at_end_of_epoch(pd.DataFrame(rows)).set_index("method")
    assert list(told.loc["aemodel"]) == [2, 0.2, 1.5]


def test_the_terms_of_a_card_s_name_are_found_though_levels_hold_blanks_and_signs() -> None:
    named = [Term("a", "a"), Term("c", "c=new +a"), Term("c", "c=new"), Term("b", "b")]
    assert list(stated("+c=new +a −b", named)) == [(1, 1), (3, -1)]
    assert list(stated("−a +c=new", named)) == [(0, -1), (2, 1)]
    assert list(stated("nonlinear", named)) == []


def test_a_term_holds_if_the_ends_of_the_feature_column_differ_as_it_says() -> None:
    feature = np.linspace(-1, 1, 100)
    assert holds(feature**3, feature, 1) and not holds(feature**3, feature, -1)
    assert not holds(np.zeros(100), feature, 1), "no difference is none"


def of_two_seeds(table: str) -> FeatureResults:
    each = [(method, seed) for seed in (0, 1) for method in ("PCA", "residual")]
    score = {("PCA", 0): 0.5, ("PCA", 1): 0.7, ("residual", 0): 0.8, ("residual", 1): 0.9}
    told = [{"table": table, "method": method, "seed": seed} for method, seed in each]
    probes = {"logistic": 0.5, "kNN": 0.5, "NMI": 0.5, "stability": 1.0}
    probes |= {"masked R²": 0.1, "effective rank": 0.9, "robust": 0.9}
    methods = [row | probes | {"R²": score[one]} for row, one in zip(told, each, strict=True)]
    columns = [
        row | {"column": "fare", "R²": score[one], "masked R²": 0.1} for row, one in zip(told, each, strict=True)
    ]
    releases = [{"table": table, "release": "anew", "seed": i, "mean r": 0.9 + i, "least r": 0.8 + i} for i in (0, 1)]
    return FeatureResults(pd.DataFrame(methods), pd.DataFrame(columns), pd.DataFrame(releases))


def test_feature_results_are_written_in_the_mean_of_seeds_and_each_by_itself(tmp_path: Path) -> None:
    FeatureResults.joined([of_two_seeds("taxis"), of_two_seeds("trains")]).write(tmp_path)
    by_column = (tmp_path / "columns.md").read_text().splitlines()
    assert [line for line in by_column if line.startswith("## ")] == ["## taxis", "## trains"]
    assert by_column.count("| fare | 0.85 | 0.1 | 0.6 | 0.1 |") == 2
    told = (tmp_path / "features.md").read_text()
    assert "| taxis | 0 | 0 | 0.25 | 0 | 1 |" in told and "| trains | anew | 1.4 | 0.8 |" in told
    assert "| residual | 0.5 | 0.5 | 0.5 | 0.85 | 0.1 | 0.9 | 0.9 | 1 |" in told
    assert len(pd.read_parquet(tmp_path / "columns.parquet")) == 8
    assert (tmp_path / "features.png").stat().st_size > 0
