from __future__ import annotations

import numpy as np
import pytest

from aemodel.contract import Contract, compared, first, same_place

rng = np.random.default_rng(0)
OLD = rng.normal(size=(500, 4))


def test_a_column_correlates_with_its_own_place_and_a_sign_is_a_meaning() -> None:
    new = OLD * [2.0, -1.0, 1.0, 1.0] + [3.0, 0.0, 0.0, 0.0]
    new[:, 3] = rng.normal(size=500)
    r = same_place(OLD, new)
    assert r[0] == pytest.approx(1) and r[1] == pytest.approx(-1) and r[2] == pytest.approx(1) and abs(r[3]) < 0.2


def test_a_column_that_is_gone_or_has_become_constant_correlates_at_nothing() -> None:
    assert same_place(OLD, OLD[:, :3])[3] == 0.0
    assert same_place(OLD, OLD * [1, 1, 1, 0])[3] == 0.0
    assert same_place(np.zeros((9, 1)), np.zeros((9, 2))) == (1.0,)


def test_kept_columns_keep_their_origin_and_changed_ones_begin_anew() -> None:
    new = np.concatenate([OLD, OLD[:, :1]], axis=1)
    new[:, 1] = rng.normal(size=500)
    new[:, 2] += 0.25 * rng.normal(size=500)
    contract = compared("9", 5, same_place(OLD, new), "8", "d" * 64, ("1", "1", "5", "8"), None)
    assert contract.changed == (1,) and contract.warned == (2,)
    assert contract.origins == ("1", "9", "5", "8", "9")


def test_it_survives_the_tags_of_a_version() -> None:
    contract = compared("9", 4, same_place(OLD, OLD), "8", "d" * 64, ("1", "2", "3", "4"), None)
    again = Contract.from_tags(contract.to_tags())
    assert again is not None and again.origins == contract.origins and again.r == pytest.approx(contract.r, abs=1e-4)
    assert Contract.from_tags(first("1", 3).to_tags()) == first("1", 3)
    assert Contract.from_tags({"unrelated": "1"}) is None
