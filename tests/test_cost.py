"""The arithmetic of what a run takes: more rows, columns or dimensions never cost less, and nothing is negative."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aemodel.cost import Machine, Shape, estimate
from aemodel.cost.memory import PARENT_BYTES
from aemodel.pca import GRAM_ROWS

SHAPE = Shape(
    rows=200_000,
    groups=4,
    columns=64,
    categorical=0,
    values=64,
    width=64,
    inputs=64,
    carried=64,
    carried_row_bytes=256.0,
    latent_dim=16,
    features=16,
    hidden=(256, 256),
    holdout=0.1,
    decoded_bytes=51_200_000,
    group_rows=65_536,
    group_bytes=16_777_216,
    batch_size=1_024,
    steps_per_epoch=175,
    max_epochs=9,
    check_epochs=1,
    ranks=1,
    threads=2,
    cache_bytes=10 * 2**30,
)
MACHINE = Machine(2, 0, 24 * 2**30, slowness=1.0, step=6e-3, forward=2e-6, operations=1e11)

shapes = st.builds(
    Shape,
    rows=st.integers(1, 10**10),
    groups=st.integers(1, 10**6),
    columns=st.integers(1, 8_192),
    categorical=st.integers(0, 8_192),
    values=st.integers(0, 8_192),
    width=st.integers(1, 8_192),
    inputs=st.integers(1, 8_192),
    carried=st.integers(0, 8_192),
    carried_row_bytes=st.floats(0, 10**6),
    latent_dim=st.integers(1, 4_096),
    features=st.integers(1, 8_192),
    hidden=st.lists(st.integers(1, 4_096), max_size=3).map(tuple),
    holdout=st.floats(0.001, 0.5),
    decoded_bytes=st.integers(0, 10**12),
    group_rows=st.integers(1, 10**8),
    group_bytes=st.integers(0, 10**10),
    batch_size=st.integers(1, 4_096),
    steps_per_epoch=st.integers(1, 10**7),
    max_epochs=st.integers(1, 1_000),
    check_epochs=st.integers(1, 100),
    ranks=st.integers(1, 64),
    threads=st.integers(1, 256),
    cache_bytes=st.integers(0, 10**12),
)


@given(shapes, st.floats(0.1, 10), st.integers(0, 8))
def test_nothing_is_negative_and_a_whole_run_is_the_sum_of_its_parts(shape: Shape, slowness: float, gpus: int) -> None:
    expected = estimate(shape, replace(MACHINE, slowness=slowness, gpus=gpus))
    assert all(figure > 0 for figure in astuple(expected))
    parts = (expected.start, expected.prepare, expected.train, expected.evaluate, expected.score)
    assert expected.total == pytest.approx(sum(parts))
    assert expected.peak_bytes >= PARENT_BYTES and 0 <= shape.uncached <= 1


@given(
    shapes,
    st.sampled_from(
        ["rows", "groups", "columns", "categorical", "values", "width", "carried", "carried_row_bytes", "features"]
    ),
    st.integers(1, 10**6),
)
def test_more_of_anything_never_costs_less(shape: Shape, what: str, more: int) -> None:
    larger = replace(shape, **{what: getattr(shape, what) + more})
    if larger.cells > shape.cells:  # cells of the same size: of wide rows fewer are read at once, and fewer kept
        by = larger.cells / max(1, shape.cells)
        larger = replace(larger, group_bytes=math.ceil(shape.group_bytes * by))
        larger = replace(larger, carried_row_bytes=shape.carried_row_bytes * by)
        assume((larger.held_out, larger.anchors) == (shape.held_out, shape.anchors))
    less, greater = (estimate(s, MACHINE) for s in (shape, larger))
    if what == "width":  # of a wider network fewer rows are passed through it for the cards
        less, greater = replace(less, evaluate=0.0), replace(greater, evaluate=0.0)
    pairs = zip(astuple(less), astuple(greater), strict=True)
    assert all(a <= b * 1.005 for a, b in pairs)  # a pass takes whole rows, at least 250


@given(shapes, st.floats(1, 20))
def test_a_slower_machine_takes_longer_and_as_much_memory(shape: Shape, slowness: float) -> None:
    here, there = estimate(shape, MACHINE), estimate(shape, replace(MACHINE, slowness=slowness))
    assert there.total >= here.total and there.peak_bytes == here.peak_bytes


def test_rows_beyond_the_cache_are_decoded_in_every_epoch() -> None:
    fitting = replace(SHAPE, cache_bytes=SHAPE.rows * SHAPE.encoded_row_bytes)
    assert fitting.uncached == 0 and estimate(fitting, MACHINE).epoch == pytest.approx(
        175 * estimate(SHAPE, MACHINE).step
    )
    twice = replace(fitting, rows=round(2 * fitting.rows / 0.9))
    assert twice.uncached == pytest.approx(0.5, abs=0.01)
    later, first = estimate(twice, MACHINE).epoch, estimate(twice, MACHINE).first_epoch
    assert 175 * estimate(twice, MACHINE).step < later == first


def test_the_first_epoch_decodes_what_preparing_did_not_encode() -> None:
    steps = 175 * estimate(SHAPE, MACHINE).step
    large = replace(SHAPE, rows=4 * round(GRAM_ROWS / 0.9))
    assert estimate(SHAPE, MACHINE).first_epoch == pytest.approx(steps)
    assert large.not_encoded == pytest.approx(0.75)
    assert estimate(large, MACHINE).epoch == pytest.approx(steps)
    assert estimate(large, MACHINE).first_epoch > 1.1 * steps


def test_ranks_share_the_decoding_and_each_takes_its_memory() -> None:
    one, four = (estimate(replace(SHAPE, ranks=ranks, cache_bytes=0), MACHINE) for ranks in (1, 4))
    assert four.first_epoch < one.first_epoch
    assert four.train_bytes - PARENT_BYTES > 3 * (one.train_bytes - PARENT_BYTES)
    assert four.score_bytes == one.score_bytes


def test_the_weights_are_those_of_both_ways() -> None:
    assert SHAPE.weights == 2 * (64 * 256 + 256 * 256 + 256 * 16)
    assert replace(SHAPE, hidden=()).weights == 2 * 64 * 16


def test_the_reference_run_is_expected_as_it_was_measured() -> None:
    """Of `benchmarks.preflight`, table `numeric`: prepare 3.0 s, train 21 s, 1,006 and 812 MB; scoring as in
    `benchmarks.speed`, growth, 1.1 s and its start, on a machine of slowness 0.79."""
    expected = estimate(SHAPE, MACHINE)
    found = (
        expected.prepare,
        expected.train,
        expected.score,
        expected.train_bytes / 2**20,
        expected.score_bytes / 2**20,
    )
    for a, b in zip(found, (3.0 / 0.79, 21 / 0.79, 1.9 / 0.79, 1_006, 812), strict=True):
        assert 1 / 1.5 < a / b < 1.5


@pytest.mark.parametrize(
    ("rows", "groups", "columns", "size", "carried", "preparing", "training", "scoring"),
    [
        (400_000, 4, 200, 1, 8, 2_288, 1_277, 1_634),
        (30_000, 1, 4_000, 1, 8, 4_709, 2_543, 4_259),
        (5_000, 1, 3_000, 1, 8, 1_732, 1_933, 1_556),
        (5_000, 1, 3_000, 1, 24_008, 1_712, 2_046, 1_920),
        (60_000, 4, 1, 2_000, 8_008, 2_115, 1_952, 1_749),
    ],
)
def test_the_memory_of_wide_tables_is_expected_as_it_was_measured(
    rows: int, groups: int, columns: int, size: int, carried: int, preparing: int, training: int, scoring: int
) -> None:
    """Of float64 columns of normal numbers, or a float32 vector, of which a key or all is carried: the greatest
    private memory (MB) before, in and after the training."""
    width, decoded = columns * size, (8 if size == 1 else 4) * columns * size * rows
    wide = {"columns": columns, "values": width, "width": width, "inputs": width, "hidden": (512, 512)}
    table = {"rows": rows, "groups": groups, "group_rows": rows // groups, "decoded_bytes": decoded}
    written = {"carried": 1, "carried_row_bytes": float(carried)}
    expected = estimate(replace(SHAPE, **wide, **table, **written, group_bytes=decoded // groups), MACHINE)
    found = (expected.prepare_bytes, expected.train_bytes, expected.score_bytes)
    for a, b in zip(found, (preparing, training, scoring), strict=True):
        assert 0.95 < a / 1e6 / b < 1.5
