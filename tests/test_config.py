from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aemodel.config import WIDE, Job, ModelJob, default_name
from aemodel.errors import JobError
from aemodel.job_file import parse_job

MINIMAL = {"dataset": {"uri": "data/flights"}}


def test_only_the_dataset_s_address_is_required() -> None:
    job = parse_job(MINIMAL, "job.yaml")
    assert job.name == "flights-encoder"
    assert job.output_uri == "features/flights-encoder"
    assert job.model.effective_scaling == "quantile"
    assert job.training.max_epochs == "auto"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "max_epochs", "many"),
        ("training", "batch_size", 0),
        ("training", "seed", -1),
        ("model", "latent_dim", 0),
        ("model", "noise", 0.5),
        ("model", "l2", float("inf")),
        ("model", "hidden", [16, 0]),
        ("gate", "min_gain_over_pca", float("nan")),
        ("registry", "alias", "1st"),
        ("output", "prefix", "ae-"),
        ("output", "format", "csv"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(section: str, key: str, value: object) -> None:
    with pytest.raises(JobError, match=rf"^job\.yaml: '{section}\.{key}.*got "):
        parse_job({**MINIMAL, section: {key: value}}, "job.yaml")


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V22", "challenger"])
def test_an_alias_that_has_a_meaning_already_is_refused(alias: str) -> None:
    with pytest.raises(JobError, match=r"^job\.yaml: 'registry\.alias': .*; choose another name \(got "):
        parse_job({**MINIMAL, "registry": {"alias": alias}}, "job.yaml")


@pytest.mark.parametrize("alias", ["v", "v1a", "latest-one", "champion"])
def test_an_alias_that_only_looks_like_it_is_fine(alias: str) -> None:
    assert parse_job({**MINIMAL, "registry": {"alias": alias}}, "job.yaml").registry.alias == alias


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ({"by": "time"}, "split by time needs a column"),
        ({"by": "group"}, "split by group needs a column"),
        ({"by": "hash", "column": "day"}, "split by hash takes no column"),
    ],
)
def test_a_split_has_a_column_exactly_where_it_uses_one(split: dict[str, Any], reason: str) -> None:
    with pytest.raises(JobError, match=rf"'dataset\.split': {reason}"):
        parse_job({"dataset": {"uri": "x", "split": split}}, "job.yaml")


@pytest.mark.parametrize("model", [{"scaling": "quantile"}, {"noise": 0.1}, {"dropout": 0.1}])
def test_vanilla_is_refused_what_its_text_does_not_have(model: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"'model': preset vanilla"):
        parse_job({**MINIMAL, "model": {"preset": "vanilla", **model}}, "job.yaml")


def test_hidden_layers_cannot_be_written_where_there_are_none() -> None:
    with pytest.raises(JobError, match=r"output.wide writes hidden layers, of which preset vanilla has none"):
        parse_job({**MINIMAL, "model": {"preset": "vanilla"}, "output": {"wide": True}}, "job.yaml")


def test_vanilla_scales_to_the_unit_interval_and_adds_no_noise() -> None:
    model = parse_job({**MINIMAL, "model": {"preset": "vanilla"}}, "job.yaml").model
    assert (model.effective_scaling, model.effective_noise) == ("minmax", 0.0)


def test_a_job_cannot_be_changed() -> None:
    job = parse_job(MINIMAL, "job.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        job.dataset.uri = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("data/flights", "flights-encoder"),
        ("data/flights/*.parquet", "flights-encoder"),
        ("s3://bucket/a b/part.parquet", "part-encoder"),
        ("data/flights/part-00000-1f.snappy.parquet", "flights-encoder"),
        ("part-0.parquet", "part-0-encoder"),
        ("*.parquet", "table-encoder"),
        ("", "table-encoder"),
    ],
)
def test_the_name_comes_from_the_dataset(uri: str, name: str) -> None:
    assert default_name(uri) == name


@given(st.text(min_size=1))
def test_any_address_gives_a_name_that_is_allowed(uri: str) -> None:
    assert parse_job({"dataset": {"uri": uri}}, "job").name.endswith("-encoder")


def digest_with(**sections: Any) -> str:
    return parse_job({**MINIMAL, **sections}, "job").training_digest


@pytest.mark.parametrize(
    "sections",
    [{"gate": {"enabled": False}}, {"output": {"prefix": "x_"}}, {"registry": {"alias": "a"}}, {"name": "other"}],
)
def test_what_is_learned_does_not_depend_on_gate_output_registry_or_name(sections: dict[str, Any]) -> None:
    assert digest_with(**sections) == digest_with()


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"latent_dim": 3}},
        {"training": {"seed": 1}},
        {"dataset": {"uri": "data/flights", "exclude": ["a"]}},
        {"dataset": {"uri": "data/flights", "split": {"holdout": 0.2}}},
    ],
)
def test_what_is_learned_depends_on_model_training_and_dataset(sections: dict[str, Any]) -> None:
    assert digest_with(**sections) != digest_with()


def test_moving_the_data_does_not_change_what_is_learned() -> None:
    assert digest_with(dataset={"uri": "elsewhere/flights"}) == digest_with()


def test_a_job_survives_json() -> None:
    job = parse_job({"dataset": {"uri": "x", "columns": {"a": {"kind": "vector"}}}, "model": {"hidden": [8]}}, "job")
    assert Job.model_validate(job.model_dump(mode="json")) == job


def test_a_single_column_may_stand_without_brackets_and_none_twice() -> None:
    assert parse_job({"dataset": {"uri": "x", "key": "id"}}, "job").dataset.key == ("id",)
    with pytest.raises(JobError, match="'dataset.key': 'id' stands twice"):
        parse_job({"dataset": {"uri": "x", "key": ["id", "id"]}}, "job")


@pytest.mark.parametrize(("width", "sizes"), [(WIDE - 1, (256, 256)), (WIDE, (512, 512))])
def test_hidden_layers_are_larger_over_wide_inputs_unless_the_job_says_their_sizes(
    width: int, sizes: tuple[int, ...]
) -> None:
    assert ModelJob().hidden_for(width) == sizes
    assert ModelJob(hidden=(8,)).hidden_for(width) == (8,)


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 gb", 1_500_000_000), ("800MB", 800 * 10**6)])
def test_a_size_is_a_number_with_its_unit(text: str, size: int) -> None:
    assert parse_job(MINIMAL | {"memory_limit": text}, "job").memory_limit_bytes == size
    assert parse_job(MINIMAL, "job").memory_limit_bytes == 0


def test_a_size_without_a_unit_is_refused() -> None:
    with pytest.raises(JobError, match="memory_limit.*such as 1.5GB"):
        parse_job(MINIMAL | {"memory_limit": "2000"}, "job")
