from dataclasses import replace

import numpy as np
import pytest

from aemodel.config import GateJob
from aemodel.contract import Contract
from aemodel.evaluation import Probed, latent_health
from aemodel.gate import Comparison, Rule, Verdict, decide, refused
from tests.test_evaluation import FOUND, HEALTHY

CHAMPION = Comparison("3", 700, 2, r2=0.80, r2_champion=0.80)


def _rule(verdict: Verdict, name: str) -> tuple[bool, str]:
    (rule,) = [r for r in verdict.rules if r.name == name]
    return rule.passed, rule.figures


def test_a_verdict_in_a_line_says_whether_anything_was_judged() -> None:
    good, bad = Rule("a", True, "a is fine"), Rule("b", False, "b is low")
    assert Verdict((good,), ("a note",)).text == "passed"
    assert Verdict((good, bad), ()).text == "b is low"
    assert Verdict((), ("the table is small",)).text == "not judged: the table is small"


def test_better_than_pca_passes_and_says_what_was_compared() -> None:
    verdict = decide(GateJob(), FOUND)
    assert verdict.passed and not verdict.reasons
    passed, figures = _rule(verdict, "R² against PCA")
    assert passed and "0.8000 is +0.0500 from PCA's 0.7500" in figures


def test_below_pca_is_refused_with_both_figures() -> None:
    verdict = decide(GateJob(), replace(FOUND, r2=0.74))
    assert not verdict.passed
    assert "0.7400" in verdict.reasons[0] and "0.7500" in verdict.reasons[0]


def test_equal_to_pca_within_rounding_passes() -> None:
    assert decide(GateJob(), replace(FOUND, r2=0.75 - 5e-5)).passed


@pytest.mark.parametrize(("cold", "passed"), [(None, True), ("the job says so", False)])
def test_a_release_is_compared_with_the_champion_and_not_with_a_fresh_pca(cold: str | None, passed: bool) -> None:
    contract = Contract("1", "d", (0.999, 0.998), ("1", "1"), cold)
    below = replace(FOUND, r2=0.70)
    verdict = decide(GateJob(), below, CHAMPION, contract)
    assert verdict.passed is passed
    assert any("-0.0500 from PCA's" in note for note in verdict.notes) is passed, "told where it is no rule"
    assert not decide(GateJob(min_gain_over_pca=0.01), below, CHAMPION, contract).passed
    assert not decide(GateJob(), below, None, contract).passed, "where it cannot be compared, PCA is the measure"


def test_columns_that_would_mean_something_else_are_refused_unless_allowed() -> None:
    contract = Contract("3", "d", (0.999, 0.40, 0.97), ("1", "9", "1"), "the preset is plain")
    verdict = decide(GateJob(), FOUND, CHAMPION, contract)
    assert verdict.reasons == (
        "columns 01 would mean something else than in version 3 (r down to 0.40): "
        "set gate.on_change to new_columns to allow it",
    )
    assert any("columns 02 have moved a little" in note for note in verdict.notes)
    allowed = decide(GateJob(on_change="new_columns"), FOUND, CHAMPION, contract)
    assert allowed.passed and "columns 01 mean something else from here on" in allowed.notes


def test_a_figure_that_is_not_a_number_is_refused() -> None:
    assert not decide(GateJob(), replace(FOUND, r2=float("nan"))).passed
    assert not decide(GateJob(), FOUND, replace(CHAMPION, r2=float("nan"))).passed


def test_collapsed_latents_are_refused() -> None:
    collapsed = replace(FOUND, latents=replace(HEALTHY, dead=(0, 1, 2)))
    verdict = decide(GateJob(), collapsed)
    assert not verdict.passed and "3 of 4 latents are dead" in verdict.reasons[0]


def test_an_encoder_that_has_collapsed_is_refused_however_it_did() -> None:
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(1_000, 8))
    one_alive = sound * np.where(np.arange(8), 1e-4, 1)
    all_alike = sound[:, :1] + 1e-3 * sound
    for latents, passed in ((sound, True), (one_alive, False), (all_alike, False), (sound * 0, False)):
        verdict = decide(GateJob(), replace(FOUND, latents=latent_health(latents)))
        assert verdict.passed == passed
        assert passed or "the encoder has collapsed" in verdict.reasons[0]


def test_below_the_champion_on_the_same_rows_is_refused_but_not_for_the_noise_of_a_seed() -> None:
    assert decide(GateJob(), FOUND, replace(CHAMPION, r2=0.797)).passed
    verdict = decide(GateJob(), FOUND, replace(CHAMPION, r2=0.79))
    assert not verdict.passed
    assert "R² 0.7900 is -0.0100 from version 3's on the same 700 held-out rows" in verdict.reasons[0]


def test_small_losses_do_not_add_up_unseen() -> None:
    lower = replace(CHAMPION, r2=0.797)
    assert lower.left_behind == pytest.approx(0.003)
    verdict = decide(GateJob(), FOUND, replace(lower, behind=0.003))
    assert not verdict.passed and "which is -0.0030 from the best before it" in verdict.reasons[0]
    assert decide(GateJob(), FOUND, replace(CHAMPION, r2=0.803, behind=0.004)).passed
    assert replace(CHAMPION, r2=0.81, behind=0.004).left_behind == 0


def test_without_shared_columns_there_is_nothing_to_compare() -> None:
    assert decide(GateJob(), FOUND, replace(CHAMPION, columns=0, r2=float("nan"))).passed


@pytest.mark.parametrize(("score", "passed"), [(0.86, True), (0.845, True), (0.83, False)])
def test_a_label_must_be_read_off_as_well_as_off_pca_within_the_noise(score: float, passed: bool) -> None:
    probe = Probed("churned", "AUROC", score, 0.85, 0.01)
    verdict = decide(GateJob(), replace(FOUND, probe=probe))
    assert verdict.passed is passed
    assert "churned can be read off the features with AUROC" in _rule(verdict, "probe against PCA")[1]


def test_a_label_must_be_read_off_as_well_as_off_the_champions_columns() -> None:
    worse = replace(CHAMPION, probe=Probed("churned", "AUROC", 0.80, 0.85, 0.01))
    verdict = decide(GateJob(), FOUND, worse)
    assert not verdict.passed and "off version 3's with 0.8500" in verdict.reasons[0]


def test_a_disabled_gate_passes_and_says_so() -> None:
    verdict = decide(GateJob(enabled=False), replace(FOUND, r2=0.1))
    assert verdict.passed and "disabled" in verdict.notes[0]


def test_too_few_rows_are_not_judged_by() -> None:
    verdict = decide(GateJob(), replace(FOUND, rows=7, r2=0.1))
    assert verdict.passed and "7 held-out rows are too few" in verdict.notes[0]


def test_columns_are_judged_however_few_rows_were_held_out() -> None:
    few, contract = replace(FOUND, rows=7, r2=0.1), Contract("3", "d", (0.999, 0.40), ("1", "9"), "the preset is plain")
    assert [r.name for r in decide(GateJob(), few, CHAMPION, contract).rules] == ["column contract"]
    assert not decide(GateJob(), few, CHAMPION, contract).passed


def test_on_a_handful_of_shared_rows_no_version_is_compared_and_pca_is_the_measure() -> None:
    contract = Contract("3", "d", (0.999, 0.99), ("1", "1"))
    verdict = decide(GateJob(), FOUND, replace(CHAMPION, rows=9, r2=0.2), contract)
    assert verdict.passed and "only 9 rows were held out of version 3 too" in verdict.notes[0]
    assert not decide(GateJob(), replace(FOUND, r2=0.7), replace(CHAMPION, rows=9), contract).passed


def test_a_version_taken_back_by_hand_is_refused() -> None:
    assert refused("rolled back").reasons == ("rolled back",)
