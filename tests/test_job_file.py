from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aemodel.errors import JobError
from aemodel.job_file import load_job, parse_job

MINIMAL = {"dataset": {"uri": "data/flights"}}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


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


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"cannot be read: it is a folder: give the path of a YAML job file"):
        load_job(tmp_path, {})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="cannot be read"):
        load_job(path, {})
