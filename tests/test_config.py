from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aemodel.config import WIDE, Job, ModelJob, default_name, load_job, parse_job
from aemodel.errors import JobError

MINIMAL = {"dataset": {"uri": "data/flights"}}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def test_only_the_dataset_s_address_is_required() -> None:
    job = parse_job(MINIMAL, "job.yaml")
    assert job.name == "flights-encoder"
    assert job.output_uri == "features/flights-encoder"
    assert job.model.effective_scaling == "quantile"
    assert job.training.max_epochs == "auto"


@pytest.mark.parametrize("data", [{}, {"dataset": {}}, {"name": "x"}])
def test_a_job_without_a_dataset_address_says_what_is_missing(data: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"job\.yaml: '(dataset\.uri|dataset)' is missing.*dataset: {uri: …}"):
        parse_job(data, "job.yaml")


@pytest.mark.parametrize(
    ("data", "key", "meant"),
    [
        ({**MINIMAL, "modle": {}}, "modle", "model"),
        ({"dataset": {"uri": "x", "exlude": []}}, "dataset.exlude", "exclude"),
        ({"dataset": {"uri": "x", "split": {"holdot": 0.1}}}, "dataset.split.holdot", "holdout"),
        ({"dataset": {"uri": "x", "columns": {"a": {"kind": "numeric", "knd": 1}}}}, "dataset.columns.a.knd", "kind"),
        ({**MINIMAL, "model": {"latent_dims": 4}}, "model.latent_dims", "latent_dim"),
        ({**MINIMAL, "training": {"max_epoch": 4}}, "training.max_epoch", "max_epochs"),
        ({**MINIMAL, "registry": {"aliases": "x"}}, "registry.aliases", "alias"),
        ({**MINIMAL, "gate": {"enable": True}}, "gate.enable", "enabled"),
        ({**MINIMAL, "output": {"prefx": "x_"}}, "output.prefx", "prefix"),
    ],
)
def test_an_unknown_key_is_named_with_the_one_that_was_meant(data: dict[str, Any], key: str, meant: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_job(data, "job.yaml")
    assert str(caught.value) == f"job.yaml: unknown key '{key}'; did you mean '{meant}'?"


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


def test_a_key_of_several_types_is_told_once_and_by_its_own_name() -> None:
    with pytest.raises(JobError) as raised:
        parse_job({"dataset": {"uri": "-"}, "training": {"compile": "maybe"}}, "job")
    assert str(raised.value).startswith("job: 'training.compile': Input should be a valid boolean")
    assert "or 'auto' (got 'maybe')" in str(raised.value) and str(raised.value).count("maybe") == 1
    with pytest.raises(JobError, match="'dataset.columns.bool.kind'"):
        parse_job({"dataset": {"uri": "-", "columns": {"bool": {"kind": "odd"}}}}, "job")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {**MINIMAL, "model": {"latent_dim": 0}},
            "'model.latent_dim': Input should be greater than or equal to 1, or 'auto' (got '0')",
        ),
        ({"datasets": {"uri": "x"}}, "unknown key 'datasets'; did you mean 'dataset'?"),
        ({"model": {}}, "'dataset' is missing; a job needs at least `dataset: {uri: …}`"),
        ({"dataset": "x"}, "'dataset': should be a section of keys, as `key: value` (got 'x')"),
        (
            {"dataset": {"uri": None}},
            "'dataset.uri': should be text; put it in quotes if it looks like a number (got 'None')",
        ),
    ],
)
def test_one_mistake_is_told_once(data: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_job(data, "job.yaml")
    assert str(caught.value) == f"job.yaml: {message}"


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


def test_the_environment_is_laid_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "dataset: {uri: data/x}\ntraining: {max_epochs: 20, patience: 3}\n")
    environment = {
        "AEMODEL_TRAINING__MAX_EPOCHS": "2",
        "AEMODEL_DATASET__KEY": "[a, b]",
        "AEMODEL_REGISTRY__TRACKING_URI": "http://user:p@ss:word@host",
        "AEMODEL_NAME": "other",
        "AEMODEL_WORK_DIR": "/somewhere",
        "PATH": "/bin",
    }
    job = load_job(path, environment)
    assert (job.training.max_epochs, job.training.patience) == (2, 3)
    assert job.dataset.key == ("a", "b")
    assert job.registry.tracking_uri == "http://user:p@ss:word@host"
    assert (job.name, job.dataset.uri) == ("other", "data/x")


def test_the_environment_does_not_change_the_mapping_it_is_laid_over() -> None:
    data = {"dataset": {"uri": "x", "split": {"holdout": 0.2}}}
    job = parse_job(data, "job", {"AEMODEL_DATASET__SPLIT__HOLDOUT": "0.3"})
    assert job.dataset.split.holdout == 0.3
    assert data == {"dataset": {"uri": "x", "split": {"holdout": 0.2}}}


def test_the_process_environment_is_used_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODEL_TRAINING__SEED", "7")
    assert load_job(written(tmp_path, "dataset: {uri: x}")).training.seed == 7


def test_a_variable_of_no_section_is_named_with_the_nearest() -> None:
    with pytest.raises(JobError, match=r"AEMODEL_TRANING__SEED: no such section; did you mean 'training'\?"):
        parse_job(MINIMAL, "job", {"AEMODEL_TRANING__SEED": "1"})


def test_a_variable_nested_too_deeply_is_text() -> None:
    with pytest.raises(JobError, match="'training.seed'"):
        parse_job(MINIMAL, "job", {"AEMODEL_TRAINING__SEED": "[" * 3_000})


def test_an_unknown_key_in_the_environment_is_named() -> None:
    with pytest.raises(JobError, match=r"unknown key 'training\.sed'; did you mean 'seed'\?"):
        parse_job(MINIMAL, "job", {"AEMODEL_TRAINING__SED": "1"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: {uri: x}\ndataset: {uri: y}\n", r"job\.yaml, line 2: the key 'dataset' stands twice; mend the YAML"),
        ("dataset: {uri: x, uri: y}\n", r"job\.yaml, line 1: the key 'uri' stands twice"),
        ("dataset: [unclosed\n", r"job\.yaml, line 2: .*mend the YAML"),
        ("- a\n- b\n", r"job\.yaml: a job file is a mapping with at least `dataset: {uri: …}`"),
        ("", r"job\.yaml: a job file is a mapping"),
        ("[" * 3_000, r"job\.yaml: it is nested too deeply to be a job; mend the YAML"),
    ],
)
def test_a_file_that_is_no_job_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        load_job(written(tmp_path, text), {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no job file '.*none\.yaml': give the path of a YAML job file"):
        load_job(tmp_path / "none.yaml", {})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="cannot be read"):
        load_job(path, {})


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
