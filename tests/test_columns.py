from __future__ import annotations

import pytest

from aemodel.columns import OutputColumns


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
    assert len(set(names)) == len(names) == 20 + 2 + 3 + 3 + 1
