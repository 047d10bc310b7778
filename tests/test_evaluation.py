from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from aemodel.evaluation import (
    ColumnScore,
    Evaluation,
    Label,
    LatentHealth,
    Probed,
    latent_health,
    probed,
    shared_r2,
)

HEALTHY = LatentHealth(std=(1.0, 1.0, 1.0, 1.0), dead=(), duplicates=(), effective_rank=4.0)
FOUND = Evaluation(
    rows=500,
    r2=0.80,
    r2_pca=0.75,
    columns=(ColumnScore("a", "numeric", 0.9, 0.8), ColumnScore("b", "numeric", 0.7, 0.7)),
    latents=HEALTHY,
)


def test_evaluation_survives_json() -> None:
    assert Evaluation.from_json(FOUND.to_json()) == FOUND
    with_probe = replace(FOUND, probe=Probed("churned", "AUROC", 0.8, 0.7, 0.01))
    assert Evaluation.from_json(with_probe.to_json()) == with_probe


def test_versions_are_compared_on_the_columns_that_both_have_a_figure_for() -> None:
    mine, theirs = {"a": 0.9, "b": 0.7, "still": float("nan")}, {"a": 0.85, "gone": 1.0, "still": 0.2}
    assert shared_r2(mine, theirs) == (0.9, 0.85, 1)
    assert shared_r2(mine, {"gone": 1.0})[2] == 0


def test_features_that_hold_the_label_are_told_from_those_that_do_not() -> None:
    rng = np.random.default_rng(0)
    churned = rng.random(600) < 0.4
    good, bad = rng.normal(size=(600, 3)), rng.normal(size=(600, 3))
    good[:, 1] += 2 * churned
    found = probed(Label("churned", pa.array(churned)), good, bad)
    assert found is not None and found.measure == "AUROC"
    assert found.score > 0.85 and abs(found.compared - 0.5) < 0.1 and found.noise >= 0.01


def test_dead_and_duplicate_latents_are_found() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1_000, 4))
    z[:, 1] = z[:, 0] + 0.01 * rng.normal(size=1_000)
    z[:, 3] *= 1e-3
    health = latent_health(z)
    assert health.dead == (3,)
    assert health.duplicates == ((0, 1),)


def test_most_latents_may_be_dead() -> None:
    z = np.random.default_rng(0).normal(size=(1_000, 16))
    z[:, 1:] *= 1e-4
    assert latent_health(z).dead == tuple(range(1, 16))
    assert latent_health(np.zeros((100, 3))).dead == (0, 1, 2)


def test_effective_rank_of_independent_latents_is_their_number_and_of_one_direction_is_one() -> None:
    rng = np.random.default_rng(0)
    assert latent_health(rng.normal(size=(5_000, 6))).effective_rank == pytest.approx(6, abs=0.05)
    line = rng.normal(size=(5_000, 1)) @ np.ones((1, 6))
    assert latent_health(line).effective_rank == pytest.approx(1, abs=0.05)
