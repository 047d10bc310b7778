from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from aemodel import bundle as module
from aemodel.bundle import Bundle, Provenance, calibrated, load, save
from aemodel.config import ModelJob
from aemodel.errors import BundleError
from aemodel.model import build
from aemodel.pca import principal_axes
from tests import tables

TABLE = tables.plain(tables.mixed())


def made(preset: str = "residual", latent_dim: int = 4) -> Bundle:
    job = ModelJob.model_validate({"preset": preset, "latent_dim": latent_dim, "hidden": [8]})
    transform = tables.transform_of(TABLE, job.effective_scaling)
    rows = transform.apply(tables.only_batch(TABLE))
    torch.manual_seed(0)
    model = build(job, transform.layout, principal_axes(transform.layout, [rows], latent_dim)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    provenance = Provenance("flights", "snapshot", "job", "code", len(rows))
    return calibrated(model, job, transform, rows, rows, provenance)


@pytest.fixture(scope="module")
def whole() -> Bundle:
    return made()


@pytest.fixture
def folder(whole: Bundle, tmp_path: Path) -> Path:
    save(whole, tmp_path / "bundle")
    return tmp_path / "bundle"


def scores(bundle: Bundle, batch: pa.RecordBatch) -> list[np.ndarray]:
    evidence, z = bundle.evidence(bundle.transform.apply(batch))
    score = bundle.calibration.score(evidence)
    rank, reasons = bundle.calibration.rank(score), bundle.calibration.reasons(evidence, 3)
    return [evidence.errors, z.numpy(), evidence.features, score, rank, reasons]


@pytest.mark.parametrize("preset", ["residual", "plain", "variational", "contractive", "sparse", "vanilla"])
def test_a_loaded_bundle_scores_as_the_saved_one(preset: str, tmp_path: Path) -> None:
    saved = made(preset)
    save(saved, tmp_path / "bundle")
    loaded = load(tmp_path / "bundle")
    batch = tables.only_batch(tables.plain(tables.mixed(50, seed=1)))
    for found, expected in zip(scores(loaded, batch)[:5], scores(saved, batch)[:5], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    save(loaded, tmp_path / "again")
    for found, expected in zip(scores(load(tmp_path / "again"), batch), scores(loaded, batch), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (loaded.job, loaded.provenance) == (saved.job, saved.provenance)
    assert loaded.input_columns == tables.INPUTS


def test_a_loaded_model_neither_trains_nor_drops_out(folder: Path) -> None:
    model = load(folder).model
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_bundle_is_json_and_safetensors_alone(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted([*module.FILES, module.MANIFEST])
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    assert not any(p.read_bytes()[:2] in (b"\x80\x04", b"PK") for p in folder.iterdir())


def test_the_digest_names_the_content_wherever_it_lies(whole: Bundle, folder: Path, tmp_path: Path) -> None:
    save(whole, tmp_path / "again")
    assert load(folder).digest == load(tmp_path / "again").digest != ""
    save(replace(whole, calibration=replace(whole.calibration, latent_mean=np.ones(4))), tmp_path / "again")
    assert load(folder).digest != load(tmp_path / "again").digest


@pytest.mark.parametrize("name", module.FILES)
def test_an_altered_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} in the bundle '.*' is not the file that was saved; restore it"):
        load(folder)


@pytest.mark.parametrize("name", [*module.FILES, module.MANIFEST])
def test_a_missing_file_makes_the_bundle_incomplete(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"is not a complete bundle \(FileNotFoundError: .*{name}"):
        load(folder)


def test_a_folder_that_is_not_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="none' is not a complete bundle"):
        load(tmp_path / "none")


def test_another_format_version_says_what_to_do(folder: Path) -> None:
    altered(folder, format_version=99)
    with pytest.raises(BundleError, match="has format 99, this release reads 4: retrain, or score with the release"):
        load(folder)


def altered(folder: Path, **entries: Any) -> None:
    manifest = json.loads((folder / module.MANIFEST).read_text())
    (folder / module.MANIFEST).write_text(json.dumps({**manifest, **entries}))


@pytest.mark.parametrize(
    "entries",
    [{"latent_dim": 3}, {"latent_dim": "x"}, {"model": {"preset": "none"}}, {"provenance": {}}, {"sha256": {}}],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, entries: dict[str, Any]) -> None:
    altered(folder, **entries)
    with pytest.raises(BundleError, match="is not a complete bundle"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"'])
def test_a_manifest_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / module.MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="is not a complete bundle"):
        load(folder)


def test_a_save_that_fails_leaves_the_bundle_before(
    whole: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(folder).digest

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        save(whole, folder)
    assert load(folder).digest == before
    assert [p.name for p in folder.parent.iterdir()] == ["bundle"]
