from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aemodel.errors import BundleError
from aemodel.kept import ANCHORS, HELD_OUT_ROWS, Kept
from tests import tables


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = tables.plain(tables.mixed(40))
    reference = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    Kept(rows, reference, rows.slice(0, 7), rows.slice(9, 3)).save(tmp_path / "kept")
    again = Kept.load(tmp_path / "kept")
    assert again.anchors.equals(rows) and again.held_out.equals(rows.slice(0, 7))
    assert again.latents.equals(rows.slice(9, 3))
    np.testing.assert_array_equal(again.reference, reference)


def test_a_sample_of_the_held_out_rows_is_kept_from_all_over_them() -> None:
    rows = pa.table({"n": np.arange(3 * HELD_OUT_ROWS)})
    kept = Kept.sampled(rows)["n"].to_numpy()
    assert len(kept) == HELD_OUT_ROWS == len(np.unique(kept)) and (np.diff(kept) > 0).all()
    assert abs(kept.mean() / rows.num_rows - 0.5) < 0.02
    assert Kept.sampled(rows.slice(0, 5)).num_rows == 5


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    Kept(pa.table({"a": [1]}), np.zeros((1, 2)), pa.table({"a": [1]}), pa.table({})).save(tmp_path / "kept")
    (tmp_path / "kept" / ANCHORS).write_bytes(b"PAR1")
    with pytest.raises(BundleError, match="what the version keeps in .* cannot be read"):
        Kept.load(tmp_path / "kept")
