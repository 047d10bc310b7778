from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from aemodel import layout, scoring
from aemodel.bundle import Bundle
from aemodel.config import OutputJob
from aemodel.errors import SchemaError
from aemodel.scoring import Scorer, Strangest, score_fragments
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables


@pytest.fixture(scope="module")
def scorer(mixed_bundle: Bundle) -> Scorer:
    return Scorer(mixed_bundle, OutputJob(), "7")


def _batch(**changed: pa.Array) -> pa.RecordBatch:
    table = tables.plain(tables.mixed(50, seed=3))
    for name, column in changed.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return tables.only_batch(table)


def test_the_columns_are_features_error_rank_reasons_and_version(scorer: Scorer) -> None:
    scored = scorer.score(_batch())
    features = ["ae_00", "ae_01", "ae_02", "ae_03"]
    reasons = ["ae_reason_1", "ae_reason_2", "ae_reason_3"]
    told = [f"ae_{what}_{i}" for what in ("actual", "expected") for i in (1, 2, 3)]
    assert scored.schema.names == [*features, "ae_error", "ae_error_rank", *reasons, *told, "ae_model_version"]
    assert all(scored.schema.field(n).type == pa.float32() for n in [*features, "ae_error", "ae_error_rank"])
    assert scored.column("ae_model_version").unique().to_pylist() == ["7"]


def test_without_anomalies_only_the_features_are_written_and_they_are_the_same(mixed_bundle: Bundle) -> None:
    plain = Scorer(mixed_bundle, OutputJob(anomaly=False), "7")
    scored, whole = plain.score(_batch()), Scorer(mixed_bundle, OutputJob(), "7").score(_batch())
    assert scored.schema.names == ["ae_00", "ae_01", "ae_02", "ae_03", "ae_model_version"]
    for name in plain.columns.features:
        np.testing.assert_allclose(scored.column(name), whole.column(name), rtol=1e-5, atol=1e-5)
    strangest = Strangest(3, ("row_id",), plain.columns)
    strangest.add(_batch(), scored)
    assert strangest.rows() == ()


def test_a_row_is_scored_alike_alone_and_among_others(scorer: Scorer) -> None:
    whole, alone = scorer.score(_batch()), scorer.score(_batch().slice(17, 1))
    for name in ("ae_00", "ae_03", "ae_error"):
        np.testing.assert_allclose(
            alone.column(name).to_numpy(), whole.column(name).to_numpy()[17:18], rtol=1e-4, atol=1e-5
        )


def test_rows_of_nulls_and_of_wild_values_have_finite_features(scorer: Scorer) -> None:
    wild = pa.array([1e308, -1e308, float("inf"), float("nan"), None] * 10)
    nothing = {n: pa.nulls(50, _batch().schema.field(n).type) for n in tables.INPUTS}
    for batch in (_batch(amount=wild), _batch(**nothing)):
        scored = scorer.score(batch)
        for name in scorer.columns.numbers:
            assert np.isfinite(scored.column(name).to_numpy()).all(), name


def test_no_rows_are_scored_as_none(scorer: Scorer) -> None:
    scored = scorer.score(_batch().slice(0, 0))
    assert scored.num_rows == 0 and scored.schema == scorer.schema


def test_a_column_whose_values_have_become_others_is_named(mixed_bundle: Bundle) -> None:
    fresh = Scorer(mixed_bundle, OutputJob(), "7")
    fresh.score(_batch())
    assert fresh.unlike_training() == []
    for _ in range(3):
        fresh.score(_batch(colour=pa.array([str(i) for i in range(50)]), amount=pa.array([float("nan")] * 50)))
    assert fresh.unlike_training() == ["amount", "colour"]


def test_the_column_that_was_tampered_with_is_the_first_reason(scorer: Scorer) -> None:
    counts = np.array(_batch().column("count").to_pylist())
    counts[5] = 10_000
    scored = scorer.score(_batch(count=pa.array(counts, pa.int32())))
    assert scored.column("ae_reason_1")[5].as_py() == "count"
    assert scored.column("ae_error_rank")[5].as_py() >= 0.99
    assert scored.column("ae_actual_1")[5].as_py() == "10000"
    expected = int(scored.column("ae_expected_1")[5].as_py())
    assert abs(expected - 10_000) > abs(expected - 20), "in the units of the column, and nearer to what is usual"


def test_hidden_layers_and_the_k_nearest_distance_are_written_when_asked_for(mixed_bundle: Bundle) -> None:
    asked = Scorer(mixed_bundle, OutputJob(wide=True, knn=True), "7")
    scored = asked.score(_batch())
    assert scored.schema.names[4:20] == [f"ae_wide_{i:03d}" for i in range(16)]
    assert all(np.isfinite(scored.column(n).to_numpy()).all() for n in asked.columns.numbers)
    knn = scored.column("ae_knn").to_numpy()
    assert knn.min() > 0 and knn.std() > 0


def test_an_input_that_the_batch_lacks_counts_as_missing(scorer: Scorer) -> None:
    batch = _batch()
    lacking = batch.select([n for n in batch.schema.names if n != "price"])
    price = batch.schema.field("price").type
    np.testing.assert_array_equal(
        scorer.score(lacking).column("ae_00").to_numpy(),
        scorer.score(_batch(price=pa.nulls(50, price))).column("ae_00").to_numpy(),
    )


def test_a_dataset_without_an_input_is_refused_by_name(scorer: Scorer) -> None:
    types = pa.schema([f for f in _batch().schema if f.name != "carrier"])
    with pytest.raises(SchemaError, match="'mixed' version 7 needs column 'carrier', which the dataset lacks"):
        scorer.check_columns(types)


def test_a_fragment_keeps_its_rows_in_order_with_the_carried_columns(scorer: Scorer, mixed_snapshot: Snapshot) -> None:
    strangest = Strangest(3, ["row_id", "carrier"], scorer.columns)
    batches = list(score_fragments(scorer, mixed_snapshot, [1], ["row_id"], strangest))
    assert {index for index, _ in batches} == {1}
    table = pa.Table.from_batches([batch for _, batch in batches])
    assert table["row_id"].to_pylist() == list(range(170, 300))
    found = strangest.rows()
    order = np.argsort(-table["ae_error"].to_numpy(), kind="stable")[:3]
    assert [row.error for row in found] == table["ae_error"].to_numpy()[order].tolist()
    assert [dict(row.cells)["row_id"] for row in found] == [str(170 + i) for i in order]
    assert all(1 <= len(row.reasons) <= 3 for row in found)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_are_scored_alike_and_in_order_on_however_many_threads_and_however_cut(
    threads: int, scorer: Scorer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tables.plain(tables.mixed(700))
    whole = scorer.score(tables.only_batch(table))
    monkeypatch.setattr(scoring, "AT_ONCE", 64)
    monkeypatch.setattr(layout, "AT_ONCE_ROWS", 48)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    snapshot = open_snapshot(str(tables.write(table, tmp_path / "rows.parquet", row_group_size=150)))
    strangest = Strangest(3, ("row_id",), scorer.columns)
    usual = sys.getswitchinterval()
    scored = score_fragments(scorer, snapshot, [0], ("row_id",), strangest)
    found = pa.Table.from_batches(batch for _, batch in scored)
    assert sys.getswitchinterval() == usual
    assert [row.error for row in strangest.rows()] == sorted(found["ae_error"].to_pylist(), reverse=True)[:3]
    assert found["row_id"].to_pylist() == table["row_id"].to_pylist()
    for name in scorer.columns.numbers:
        np.testing.assert_allclose(found[name].to_numpy(), whole.column(name).to_numpy(), rtol=1e-3, atol=1e-3)
