from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from aemodel import release
from aemodel.bundle import Bundle
from aemodel.config import Job
from aemodel.model import Batch, Residual, build
from aemodel.prepared import Prepared, prepare, table_schema
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables


def _trained(bundle: Bundle, prepared: Prepared, preset: str) -> Bundle:
    """The bundle with weights as after some training, of either preset."""
    torch.manual_seed(1)
    job = bundle.job.model_copy(update={"preset": preset})
    model = build(job, bundle.transform.layout, prepared.pca)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return replace(bundle, model=model.eval().requires_grad_(False), job=job)


def _grown(folder: Path, latent_dim: int, job: Job, parent: Bundle) -> tuple[Prepared, pa.Table, Job]:
    """A later table: other rows, a column more in front, prepared to go on from `parent`."""
    table = tables.mixed(300, seed=8)
    extra = np.random.default_rng(2).normal(size=300)
    extra[::7] = np.nan
    table = table.add_column(1, "extra", pa.array(extra, from_pandas=True))
    table = table.append_column("tag", pa.array([f"t{i % 4}" for i in range(300)]))
    tables.write(table, folder / "a.parquet")
    model = job.model.model_copy(update={"latent_dim": latent_dim, "preset": parent.job.preset})
    job = job.model_copy(update={"model": model, "dataset": job.dataset.model_copy(update={"uri": str(folder)})})
    snapshot = open_snapshot(str(folder))
    return prepare(job, snapshot, table_schema(snapshot, job.dataset), parent=parent), table, job


@pytest.mark.parametrize("preset", ["residual", "plain"])
@pytest.mark.parametrize("latent_dim", [4, 6])
def test_training_starts_exactly_at_the_parent_with_new_columns_and_latents_behind(
    preset: str, latent_dim: int, tmp_path: Path, mixed_bundle: Bundle, mixed_prepared: Prepared, mixed_job: Job
) -> None:
    parent = _trained(mixed_bundle, mixed_prepared, preset)
    prepared, table, job = _grown(tmp_path, latent_dim, mixed_job, parent)
    assert prepared.schema.names[: len(parent.input_columns)] == parent.input_columns
    assert set(prepared.schema.names) - set(parent.input_columns) == {"extra", "tag"}
    model = build(job.model, prepared.transform.layout, prepared.pca).eval()
    release.transplant(parent, model, prepared.transform.layout)

    rows = tables.only_batch(tables.plain(table))
    with torch.inference_mode():
        mine, theirs = Batch.of(prepared.transform.apply(rows)), Batch.of(parent.transform.apply(rows))
        z, z_ref = model.encode(mine), parent.model.encode(theirs)
        torch.testing.assert_close(z[:, :4], z_ref, rtol=1e-4, atol=1e-4)
        errors, errors_ref = model.squared_errors(mine)[0], parent.model.squared_errors(theirs)[0]
    if isinstance(model, Residual) and isinstance(parent.model, Residual):
        mine, theirs = model.readout, parent.model.readout
        assert theirs.weight.any(), "the parent has learned to read"
        assert torch.equal(mine.weight[: theirs.out_features, :4], theirs.weight)
    if latent_dim == 4:
        torch.testing.assert_close(errors[:, : errors_ref.shape[1]], errors_ref, rtol=1e-3, atol=1e-4)


def test_what_the_parent_fitted_stays_and_what_is_new_is_fitted(
    tmp_path: Path, mixed_bundle: Bundle, mixed_job: Job
) -> None:
    prepared, _, _ = _grown(tmp_path, 4, mixed_job, mixed_bundle)
    kept = prepared.transform.columns[: len(mixed_bundle.transform.columns)]
    assert kept == mixed_bundle.transform.columns


def test_a_column_that_has_become_constant_stays_an_input(tmp_path: Path, mixed_bundle: Bundle, mixed_job: Job) -> None:
    table = tables.mixed(300, seed=4)
    table = table.set_column(table.column_names.index("colour"), "colour", pa.array(["red"] * 300))
    table = table.set_column(table.column_names.index("count"), "count", pa.array([12] * 300, pa.int32()))
    tables.write(table, tmp_path / "a.parquet")
    snapshot: Snapshot = open_snapshot(str(tmp_path))
    prepared = prepare(mixed_job, snapshot, table_schema(snapshot, mixed_job.dataset), parent=mixed_bundle)
    assert prepared.schema.names == mixed_bundle.input_columns


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preset": "plain"}, "the preset is plain, the champion's residual"),
        ({"hidden": (8,)}, "hidden or scaling are not the champion's"),
        ({"scaling": "standard"}, "hidden or scaling are not the champion's"),
        ({"latent_dim": 2}, "latent_dim is 2, the champion's 4"),
        ({"latent_dim": 9}, None),
        ({"hidden": "auto"}, None),
    ],
)
def test_what_hinders_going_on_from_the_parent_is_said(
    change: dict[str, object], reason: str | None, mixed_bundle: Bundle, mixed_prepared: Prepared
) -> None:
    job = mixed_bundle.job.model_copy(update=change)
    assert release.obstacle(mixed_bundle, job, mixed_prepared.schema) == reason


def test_an_input_that_is_gone_or_of_another_kind_hinders_it(mixed_bundle: Bundle, mixed_prepared: Prepared) -> None:
    inputs = mixed_prepared.schema.inputs
    gone = replace(mixed_prepared.schema, inputs=tuple(c for c in inputs if c.name != "price"))
    assert release.obstacle(mixed_bundle, mixed_bundle.job, gone) == "the champion's input price is gone"
    other = replace(gone, inputs=tuple(replace(c, kind="boolean") if c.name == "count" else c for c in inputs))
    assert release.obstacle(mixed_bundle, mixed_bundle.job, other) == "the champion's input count is of another kind"
