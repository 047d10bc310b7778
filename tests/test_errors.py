from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel import errors
from aemodel.errors import nearest, redacted, shown, without_secrets


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)])
def test_every_error_is_an_aemodel_error_with_a_nonzero_exit_code(kind: type[errors.AemodelError]) -> None:
    assert issubclass(kind, errors.AemodelError)
    assert kind.exit_code != 0


@pytest.mark.parametrize(
    ("kind", "exit_code", "transient"),
    [
        (errors.JobError, 2, False),
        (errors.SnapshotChanged, 2, False),
        (errors.BundleError, 2, False),
        (errors.RegistryError, 1, True),
        (errors.TrainingError, 1, True),
        (errors.TrainingDiverged, 1, False),
        (errors.PublishError, 1, True),
        (errors.GateRefused, 3, False),
    ],
)
def test_an_error_says_what_the_process_ends_with_and_whether_to_try_again(
    kind: type[errors.AemodelError], exit_code: int, transient: bool
) -> None:
    assert (kind.exit_code, kind.transient) == (exit_code, transient)


def test_a_shown_name_is_quoted() -> None:
    assert shown("tail number") == "'tail number'"


def test_a_shown_name_cannot_break_the_line_or_colour_the_terminal() -> None:
    assert shown("a\nb\x1b[31mc") == r"'a\nb\x1b[31mc'"


@given(st.text(), st.integers(2, 100))
def test_a_shown_name_is_printable_and_no_longer_than_its_limit(name: str, limit: int) -> None:
    text = shown(name, limit)
    assert text.isprintable()
    assert len(text) <= limit + 2


def test_a_name_that_is_cut_ends_in_an_ellipsis() -> None:
    assert shown("x" * 100, limit=10) == "'xxxxxxxxx…'"


def test_of_a_path_that_is_cut_the_end_is_shown() -> None:
    assert shown(PurePosixPath("/a/long/way/to/bundle.json"), limit=12) == "'…bundle.json'"


def test_the_nearest_known_name_is_offered() -> None:
    assert nearest("carier", ["carrier", "flight"]) == "did you mean 'carrier'?"


def test_all_known_names_are_listed_where_none_is_close() -> None:
    assert nearest("zzz", ["carrier", "flight"]) == "known: 'carrier', 'flight'"


def test_a_long_list_of_known_names_is_cut() -> None:
    text = nearest("zzz", [f"column-{i}" for i in range(40)])
    assert text.endswith("'column-11' …")


def test_nothing_known_is_said_to_be_nothing() -> None:
    assert nearest("zzz", []) == "none is known"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://key:secret@bucket/data", "s3://***@bucket/data"),
        ("s3://bucket/data?secret_key=abc", "s3://bucket/data"),
        ("https://token@host:5000/path", "https://***@host:5000/path"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("data/flights", "data/flights"),
        ("data/part-?.parquet", "data/part-?.parquet"),
        ("s3://[not-an-address/data", "s3://[not-an-address/data"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(uri: str, expected: str) -> None:
    assert redacted(uri) == expected


@given(st.text("abcdefgh0123456789+=%.", min_size=8, max_size=30))
def test_no_password_survives_in_an_address_or_in_another_library_s_message(password: str) -> None:
    address = f"postgresql://user:{password}@database.internal:5432/mlflow"
    message = f"could not connect to {address}, is it up?"
    assert password not in redacted(address)
    assert password not in without_secrets(message)
    assert "database.internal:5432/mlflow" in without_secrets(message)
