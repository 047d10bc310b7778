from __future__ import annotations

import pytest

from aemodel.columns import OutputColumns, columns_of
from aemodel.config import ModelJob, OutputJob


@pytest.mark.parametrize(
    ("latent_dim", "first", "last"), [(1, "ae_00", "ae_00"), (16, "ae_00", "ae_15"), (100, "ae_00", "ae_99")]
)
def test_features_are_numbered_with_two_digits(latent_dim: int, first: str, last: str) -> None:
    names = OutputColumns("ae_", latent_dim).features
    assert (names[0], names[-1], len(names)) == (first, last, latent_dim)


def test_from_a_hundred_and_one_features_on_there_are_three_digits_and_they_sort() -> None:
    names = OutputColumns("x_", 101).features
    assert (names[0], names[-1]) == ("x_000", "x_100") and list(names) == sorted(names)


def test_no_name_stands_twice() -> None:
    names = OutputColumns("ae_", 20).all
    assert len(set(names)) == len(names) == 20 + 2 + 3 + 3 + 3 + 1


def test_what_the_job_asks_for_beside_is_written_behind_its_like() -> None:
    output = OutputJob(prefix="f_", wide=True, knn=True, in_training=True)
    columns = columns_of(output, ModelJob(hidden=(3, 2)), 2, 10)
    wide = ("f_wide_000", "f_wide_001", "f_wide_002", "f_wide_003", "f_wide_004")
    assert columns.numbers == ("f_00", "f_01", *wide, "f_error", "f_error_rank", "f_knn")
    assert columns.all[-2:] == ("f_model_version", "f_in_training")
