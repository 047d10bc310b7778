import numpy as np
import pyarrow as pa
import pytest

from aemodel.probe import MOST_CLASSES, PROBED_ROWS, Target

rng = np.random.default_rng(0)
X = rng.normal(size=(600, 4))


@pytest.mark.parametrize(
    ("label", "measure"),
    [
        (pa.array(X[:, 0] > 0), "AUROC"),
        (pa.array(np.where(X[:, 0] > 0, "yes", "no")), "AUROC"),
        (pa.array(np.digitize(X[:, 0], [-0.5, 0.5])), "accuracy"),
        (pa.array(X[:, 0] * 3 + 1), "R²"),
    ],
)
def test_a_label_that_a_column_gives_away_is_read_off_by_its_own_measure(label: pa.Array, measure: str) -> None:
    target = Target.of(label)
    assert target is not None and target.measure == measure
    assert target.score(X) > 0.9
    assert target.score(X[:, 1:]) < 0.65


@pytest.mark.parametrize("kind", [pa.float16(), pa.decimal128(10, 4)])
def test_a_number_of_any_type_is_a_label(kind: pa.DataType) -> None:
    numbers = np.round(X[:, 0], 2).astype(np.float16 if pa.types.is_float16(kind) else np.float64)
    target = Target.of(pa.array(numbers) if pa.types.is_float16(kind) else pa.array(numbers).cast(kind, safe=False))
    assert target is not None and target.measure == "R²" and target.score(X) > 0.9


def test_rows_without_a_label_and_rare_classes_are_left_aside() -> None:
    label = pa.array(["a"] * 300 + ["b"] * 290 + ["c"] * 3 + [None] * 7)
    target = Target.of(label)
    assert target is not None and len(target.rows) == 590 and target.measure == "AUROC"


@pytest.mark.parametrize(
    "label",
    [
        pa.array(["a"] * 600),
        pa.array([f"name-{i}" for i in range(MOST_CLASSES + 1)] * 10),
        pa.array([None] * 600, pa.string()),
        pa.array([True, False] * 20),
    ],
    ids=["one class", "names without end", "no values", "few rows"],
)
def test_a_label_that_cannot_be_probed_is_none(label: pa.Array) -> None:
    assert Target.of(label) is None


def test_no_more_rows_are_probed_than_needed() -> None:
    target = Target.of(pa.array(np.arange(PROBED_ROWS + 50) % 2 == 0))
    assert target is not None and len(target.rows) == PROBED_ROWS and target.noise == pytest.approx(PROBED_ROWS**-0.5)
