from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from aemodel.bundle import Bundle
from aemodel.explanation import Strange, as_text, explained
from tests import tables


def _explained(bundle: Bundle, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks, names of the columns (rows, 3), and texts (rows, 6)."""
    rows = bundle.transform.apply(batch)
    with torch.inference_mode():
        evidence, z = bundle.evidence(rows)
        rank = bundle.calibration.rank(bundle.calibration.score(evidence))
        strange = Strange.among(rows, evidence, z, rank)
        found, told = explained(bundle, strange, batch)
    reasons = bundle.calibration.reasons(evidence, 3)
    texts = np.full((len(rows), 6), None, object)
    reasons[strange.places], texts[strange.places] = found, told
    return rank, np.array([*bundle.input_columns, None], object)[reasons], texts


def _tampered(**cells: object) -> pa.RecordBatch:
    """Fifty rows of which the sixth has other cells."""
    table = tables.plain(tables.mixed(50, seed=3))
    for name, cell in cells.items():
        held = table[name].to_pylist()
        held[5] = cell
        table = table.set_column(table.column_names.index(name), name, pa.array(held, table[name].type))
    return tables.only_batch(table)


def _reproduced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, **cells: object) -> pa.RecordBatch:
    """As `_tampered`, before a network that reproduces the sixth row."""
    batch = _tampered(**cells)
    columns = [batch.column(n).slice(5, 1) for n in bundle.input_columns]
    echo = pa.RecordBatch.from_arrays(columns, bundle.input_columns)
    monkeypatch.setattr(type(bundle.transform), "invert", lambda self, linear: echo)
    return batch


def test_only_strange_rows_are_told_what_was_expected(mixed_bundle: Bundle) -> None:
    rank, _, texts = _explained(mixed_bundle, _tampered())
    assert ((texts[:, 0] != None) == (rank >= 0.99)).all()  # noqa: E711
    assert ((texts[:, 3] != None) == (rank >= 0.99)).all()  # noqa: E711


def test_a_cell_that_holds_what_was_expected_is_no_reason(mixed_bundle: Bundle) -> None:
    batch = tables.only_batch(tables.plain(tables.mixed(3_000, seed=4)))
    rank, names, texts = _explained(mixed_bundle, batch)
    strange = rank >= 0.99
    assert strange.sum() > 10
    held, expected = texts[strange, :3], texts[strange, 3:]
    same = (held == expected) & (held != None)  # noqa: E711
    assert not same[:, 1:].any() and (same[:, 0] <= (names[strange, 1] == None)).all()  # noqa: E711


def test_a_number_that_the_network_reproduces_is_expected_to_be_as_in_the_nearest_training_row(
    mixed_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = _reproduced(mixed_bundle, monkeypatch, count=10_000)
    rank, names, texts = _explained(mixed_bundle, batch.slice(5, 1))
    assert rank[0] >= 0.99 and names[0, 0] == "count" and texts[0, 0] == "10000"
    counts = set(tables.mixed(300)["count"].to_pylist())
    assert int(texts[0, 3]) in counts, "as some training row has it"


def test_a_row_in_which_all_is_as_expected_keeps_the_first_reason(
    mixed_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = _reproduced(mixed_bundle, monkeypatch, count=10_000)
    monkeypatch.setattr(Bundle, "nearest_numbers", lambda self, rows: None)
    _, names, texts = _explained(mixed_bundle, batch.slice(5, 1))
    assert names[0].tolist() == ["count", None, None]
    largest = max(tables.mixed(300)["count"].to_pylist())
    assert texts[0, 0] == "10000" and int(texts[0, 3]) <= largest, "no more is expected than occurs"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (pa.scalar(None, pa.string()), "missing"),
        (pa.scalar(1_234_567.891), "1.23457e+06"),
        (pa.scalar([1.0, 2.5, 3.0, 4.0, 5.0]), "[1, 2.5, 3, 4, …]"),
        (pa.scalar([1.0, None]), "[1, missing]"),
        (pa.scalar([-0.001, 7e-18]), "[-0.001, 0]"),
        (pa.scalar(-1e-17), "0"),
        (pa.scalar(["a", "b"]), "['a', 'b']"),
        (pa.scalar([("k", 1)], pa.map_(pa.string(), pa.int64())), "[('k', 1)]"),
        (pa.scalar(-99_999_999_999, pa.timestamp("s")), "-1199-02-15 14:13:21"),
        (pa.scalar("x" * 99), "x" * 59 + "…"),
    ],
)
def test_any_cell_has_a_short_text(cell: pa.Scalar, text: str) -> None:
    assert as_text(cell) == text
