"""Moving the alias by hand, in a registry whose versions have no model behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aemodel.errors import JobError, NoVersion, RegistryError
from aemodel.job_file import parse_job
from aemodel.pipeline import Promotion, promote, rollback
from aemodel.registry import PROMOTED_TAG, ROLLED_BACK_TAG, Registry, Version

JOB = parse_job({"name": "m", "dataset": {"uri": "-"}}, "job")


@pytest.fixture
def registry(work: Path) -> Registry:
    """Three versions; no alias."""
    registry = Registry(JOB.registry, work)
    registry.client.create_registered_model("m")
    for _ in range(3):
        registry.client.create_model_version("m", "file:///nowhere", None)
    return registry


def _champion(registry: Registry) -> Version | None:
    return registry.resolve("m", "champion")


def test_a_promotion_says_what_it_did_and_keeps_why(registry: Registry) -> None:
    assert promote(JOB, registry.work, "2", "it reads well") == Promotion("m", "champion", "2", None)
    assert promote(JOB, registry.work, "3", "newer") == Promotion("m", "champion", "3", "2")
    assert registry.tags_of(Version("m", "2"))[PROMOTED_TAG] == "it reads well"


def test_a_version_that_is_not_there_cannot_be_promoted(registry: Registry) -> None:
    with pytest.raises(NoVersion, match="^'m' has no version '9' to promote; it has 1, 2, 3$"):
        promote(JOB, registry.work, "9", "a slip")
    assert _champion(registry) is None


def test_nothing_can_be_promoted_of_a_model_that_was_never_trained(work: Path) -> None:
    with pytest.raises(NoVersion, match="^'m' has no version '1' to promote; it has none: train one first$"):
        promote(JOB, work, "1", "a slip")


def test_a_long_list_of_versions_is_cut(registry: Registry) -> None:
    for _ in range(7):
        registry.client.create_model_version("m", "file:///nowhere", None)
    with pytest.raises(NoVersion, match="it has 1, 2, 3, 4, 5, 6, 7, 8 and 2 more$"):
        promote(JOB, registry.work, "x", "a slip")


def test_a_champion_cannot_be_promoted_over_itself(registry: Registry) -> None:
    promote(JOB, registry.work, "2", "it reads well")
    with pytest.raises(NoVersion, match="^version 2 of 'm' has the alias 'champion' already$"):
        promote(JOB, registry.work, "2", "again")
    assert registry.tags_of(Version("m", "2"))[PROMOTED_TAG] == "it reads well"


def test_a_promotion_by_hand_marks_what_it_leaves(registry: Registry) -> None:
    promote(JOB, registry.work, "2", "first")
    promote(JOB, registry.work, "1", "the older one reads better")
    assert registry.tags_of(Version("m", "2"))[ROLLED_BACK_TAG] == "the older one reads better"


@pytest.mark.parametrize("reason", ["", "  "])
def test_moving_an_alias_needs_a_reason(registry: Registry, reason: str) -> None:
    for move in (lambda: promote(JOB, registry.work, "1", reason), lambda: rollback(JOB, registry.work, reason)):
        with pytest.raises(JobError, match="^--reason is empty: say why in a few words"):
            move()
    assert _champion(registry) is None


def test_roll_backs_go_back_version_by_version_and_mark_what_they_leave(registry: Registry) -> None:
    for number in ("1", "2", "3"):
        promote(JOB, registry.work, number, "newer")
    assert rollback(JOB, registry.work, "bad") == Promotion("m", "champion", "2", "3")
    assert registry.tags_of(Version("m", "3"))[ROLLED_BACK_TAG] == "bad"
    assert rollback(JOB, registry.work, "worse") == Promotion("m", "champion", "1", "2")
    with pytest.raises(NoVersion, match="version 1 of 'm' took over from none: promote another one"):
        rollback(JOB, registry.work, "on and on")


def test_a_promotion_by_hand_forgives_a_roll_back(registry: Registry) -> None:
    promote(JOB, registry.work, "1", "first")
    promote(JOB, registry.work, "2", "newer")
    rollback(JOB, registry.work, "bad")
    promote(JOB, registry.work, "2", "it was good")
    assert registry.tags_of(Version("m", "2"))[ROLLED_BACK_TAG] == ""


def test_without_a_champion_there_is_nothing_to_roll_back(registry: Registry) -> None:
    with pytest.raises(NoVersion, match="no version of 'm' has the alias 'champion': nothing to roll back"):
        rollback(JOB, registry.work, "a slip")


def test_an_alias_that_another_run_moves_meanwhile_is_left_to_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "promote", lambda *_: False)
    with pytest.raises(RegistryError, match="another run moved the alias 'champion' meanwhile"):
        promote(JOB, registry.work, "1", "late")
