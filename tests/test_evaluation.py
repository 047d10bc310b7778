from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from aemodel.config import GateJob
from aemodel.contract import Contract
from aemodel.evaluation import ColumnScore, Evaluation, LatentHealth, decide, determined, latent_health, shared_r2
from tests import tables

HEALTHY = LatentHealth(std=(1.0, 1.0, 1.0, 1.0), dead=(), duplicates=(), effective_rank=4.0)
FOUND = Evaluation(
    rows=500,
    r2=0.80,
    r2_pca=0.75,
    columns=(ColumnScore("a", "numeric", 0.9, 0.8), ColumnScore("b", "numeric", 0.7, 0.7)),
    latents=HEALTHY,
)


def test_better_than_pca_passes_and_says_what_was_compared() -> None:
    verdict = decide(GateJob(), FOUND, None)
    assert verdict.passed and not verdict.reasons
    assert "0.8000 against PCA 0.7500" in verdict.notes[0]


def test_below_pca_is_refused_with_both_figures() -> None:
    verdict = decide(GateJob(), replace(FOUND, r2=0.74), None)
    assert not verdict.passed
    assert "0.7400" in verdict.reasons[0] and "0.7500" in verdict.reasons[0]


def test_equal_to_pca_within_rounding_passes() -> None:
    assert decide(GateJob(), replace(FOUND, r2=0.75 - 5e-5), None).passed


@pytest.mark.parametrize(("cold", "passed"), [(None, True), ("the job says so", False)])
def test_a_release_is_compared_with_the_champion_and_not_with_a_fresh_pca(cold: str | None, passed: bool) -> None:
    contract = Contract("1", "d", (0.999, 0.998), ("1", "1"), cold)
    below = replace(FOUND, r2=0.70)
    assert decide(GateJob(), below, None, contract).passed is passed
    assert not decide(GateJob(min_gain_over_pca=0.01), below, None, contract).passed


def test_columns_that_would_mean_something_else_are_refused_unless_allowed() -> None:
    contract = Contract("3", "d", (0.999, 0.40, 0.97), ("1", "9", "1"), "the preset is plain")
    verdict = decide(GateJob(), FOUND, None, contract)
    assert verdict.reasons == (
        "columns 01 would mean something else than in version 3 (r down to 0.40): set gate.on_change to new_columns to allow it",
    )
    assert any("columns 02 have moved a little" in note for note in verdict.notes)
    assert decide(GateJob(on_change="new_columns"), FOUND, None, contract).passed


@pytest.mark.parametrize(("margin", "passed"), [(0.04, True), (0.06, False)])
def test_the_job_sets_the_margin_over_pca(margin: float, passed: bool) -> None:
    assert decide(GateJob(min_gain_over_pca=margin), FOUND, None).passed is passed


def test_a_figure_that_is_not_a_number_is_refused() -> None:
    assert not decide(GateJob(), replace(FOUND, r2=float("nan")), None).passed


def test_collapsed_latents_are_refused() -> None:
    collapsed = replace(FOUND, latents=replace(HEALTHY, dead=(0, 1, 2)))
    verdict = decide(GateJob(), collapsed, None)
    assert not verdict.passed and "3 of 4 latents are dead" in verdict.reasons[0]


def test_below_the_champion_on_the_same_rows_is_refused() -> None:
    champion = replace(FOUND, columns=(ColumnScore("a", "numeric", 0.95, 0.8), ColumnScore("b", "numeric", 0.8, 0.7)))
    verdict = decide(GateJob(), FOUND, champion)
    assert not verdict.passed and "below the champion's 0.8750" in verdict.reasons[0]


def test_the_champion_is_compared_on_shared_columns_only() -> None:
    champion = replace(
        FOUND, columns=(ColumnScore("a", "numeric", 0.85, 0.8), ColumnScore("gone", "numeric", 1.0, 1.0))
    )
    assert shared_r2(FOUND, champion) == (0.9, 0.85, 1)
    assert decide(GateJob(), FOUND, champion).passed


def test_a_disabled_gate_passes_and_says_so() -> None:
    verdict = decide(GateJob(enabled=False), replace(FOUND, r2=0.1), None)
    assert verdict.passed and "disabled" in verdict.notes[0]


def test_too_few_rows_are_not_judged_by() -> None:
    verdict = decide(GateJob(), replace(FOUND, rows=7, r2=0.1), None)
    assert verdict.passed and "7 held-out rows are too few" in verdict.notes[0]


def test_evaluation_survives_json() -> None:
    assert Evaluation.from_json(FOUND.to_json()) == FOUND


def test_dead_and_duplicate_latents_are_found() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1_000, 4))
    z[:, 1] = z[:, 0] + 0.01 * rng.normal(size=1_000)
    z[:, 3] *= 1e-3
    health = latent_health(z)
    assert health.dead == (3,)
    assert health.duplicates == ((0, 1),)


def test_effective_rank_of_independent_latents_is_their_number_and_of_one_direction_is_one() -> None:
    rng = np.random.default_rng(0)
    assert latent_health(rng.normal(size=(5_000, 6))).effective_rank == pytest.approx(6, abs=0.05)
    line = rng.normal(size=(5_000, 1)) @ np.ones((1, 6))
    assert latent_health(line).effective_rank == pytest.approx(1, abs=0.05)


def test_a_column_that_another_gives_away_is_named() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=2_000), rng.normal(size=2_000)
    table = pa.table({"a": a, "b": b, "twice_a": 2 * a + 1, "near_b": b + 0.1 * rng.normal(size=2_000)})
    transform = tables.transform_of(table)
    (found,) = determined(transform.layout, transform.apply(tables.only_batch(table)))
    assert (found.column, found.by) == ("twice_a", "a") and found.r2 > 0.999
