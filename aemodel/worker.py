"""What trains, a process a rank: a prepared run folder in, `bundle/` and `result.json` out.

    python -m aemodel.worker RUN_FOLDER
    python -m torch.distributed.run --nproc-per-node 2 -m aemodel.worker RUN_FOLDER

Knows neither Prefect nor MLflow. An error meant for a person is left in `error.json` for the parent.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
import torch

from aemodel import bundle, frame, memory, release, schedule, training
from aemodel.bundle import Bundle
from aemodel.config import Job
from aemodel.errors import AemodelError
from aemodel.files import read_state, write_json
from aemodel.frame import Frame
from aemodel.gather import EncodedRowGroups, gather_on
from aemodel.kept import Kept
from aemodel.launch import die_with_parent
from aemodel.layout import EncodedRows
from aemodel.learner import Learner, Teacher
from aemodel.loader import HeldOutLoader, TrainingLoader
from aemodel.model import Autoencoder, Batch, build, reconstruct
from aemodel.plan import plan_for
from aemodel.prepared import Prepared
from aemodel.row_cache import CACHE, RowCache
from aemodel.snapshot import Snapshot
from aemodel.transform import Transform


def main(folder: Path) -> None:
    die_with_parent()
    memory.keep_freed()
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        run(folder, rank, world_size, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    except AemodelError as error:
        write_json(folder / f"error-{rank}.json", {"message": str(error), "exit_code": error.exit_code})
        sys.exit(error.exit_code)


def run(folder: Path, rank: int, world_size: int, devices: int) -> None:
    """Train this rank's share; rank 0 writes the bundle and the result."""
    job = Job.model_validate(read_state(folder / "job.json"))
    snapshot, prepared = Snapshot.load(folder / "snapshot.json"), Prepared.load(folder / "prepared")
    pl.seed_everything(job.training.seed, workers=False, verbose=False)
    layout = prepared.transform.layout
    champion = _Champion.of(folder)
    parent = champion.bundle if champion else None
    hidden = parent.job.hidden if parent else job.model.hidden_for(layout.width)
    model_job = job.model.model_copy(update={"hidden": hidden})
    model = build(model_job, layout, prepared.pca)  # the same on every rank
    held_out = prepared.transform.apply_all(prepared.held_out)
    teacher = champion.teacher(model, prepared.transform) if champion else None
    batch_size = -(-schedule.global_batch_size(job.training, prepared.num_training, layout.width) // world_size)
    plan = plan_for(prepared.groups, world_size, batch_size, job.training.seed)
    planned = schedule.schedule_for(job.training, plan.batch_size, plan.steps, world_size)
    learner = Learner(model, layout, model_job, planned, job.training, teacher)
    cache = RowCache.on_disk(folder / CACHE, layout, job.training.cache_disk_share, devices)
    read = EncodedRowGroups(snapshot, prepared.split, prepared.transform, cache)
    row_bytes = 4 * max(1, layout.num_values + layout.num_codes)
    gather = gather_on(training.device(), plan, read, row_bytes, cache)
    loader = TrainingLoader(plan, rank, gather, planned.max_epochs, row_bytes)
    try:
        result = training.fit(
            learner,
            loader,
            HeldOutLoader(looked_at(held_out), rank, world_size, layout.rows_at_once),
            job.training,
            folder,
            devices,
        )
    finally:
        loader.close()
        cache.remove()  # of all ranks: whoever still reads has it mapped, or decodes
    if rank == 0:
        best = learner.averaged.cpu().eval().requires_grad_(False)
        best.frame = _frame(best, champion, prepared)
        provenance = bundle.Provenance(**read_state(folder / "provenance.json"))
        anchors = prepared.transform.apply_all(prepared.anchors)
        made = bundle.calibrated(best, model_job, prepared.transform, held_out, anchors, provenance)
        bundle.save(made, folder / "bundle")
        write_json(folder / "result.json", training.result_state(result))


def looked_at(held_out: EncodedRows) -> EncodedRows:
    """Those of the held-out rows, evenly over them, on which a training is watched."""
    if len(held_out) <= schedule.LOOKED_AT_ROWS:
        return held_out
    return held_out[np.linspace(0, len(held_out) - 1, schedule.LOOKED_AT_ROWS).astype(int)]


@dataclass(frozen=True)
class _Champion:
    """The version that this run follows on; `bundle` is what training starts from, None where it starts anew."""

    bundle: Bundle | None
    kept: Kept

    @classmethod
    def of(cls, folder: Path) -> _Champion | None:
        lineage = release.Lineage.load(folder / "lineage.json")
        if lineage is None:
            return None
        champion = folder / "champion"
        start = bundle.load(champion / "bundle") if lineage.cold is None else None
        return cls(start, Kept.load(champion / "kept"))

    def teacher(self, model: Autoencoder, transform: Transform) -> Teacher | None:
        """Start `model` at the champion, and keep a copy of it to hold it by; None where it starts anew."""
        if self.bundle is None:
            return None
        release.transplant(self.bundle, model, transform.layout)
        anchors = Batch.of(transform.apply_all(self.kept.anchors))
        reference = torch.tensor(self.kept.reference)
        variance = reference.var(dim=0, correction=0).clamp(min=1e-6)
        return Teacher(copy.deepcopy(model), variance, anchors, reference)


def _frame(model: Autoencoder, champion: _Champion | None, prepared: Prepared) -> Frame:
    """The frame that the trained `model` writes its latents in; it has none of its own before."""
    parent = champion.bundle if champion else None
    kept = champion.kept if champion else None
    model.frame = frame.identity(model.latent_dim)

    def latents(rows: pa.Table) -> np.ndarray:
        encoded, at_once = prepared.transform.apply_all(rows), prepared.transform.layout.rows_at_once
        return reconstruct(model, HeldOutLoader(encoded, 0, 1, at_once)).features

    on_anchors = latents(kept.anchors) if kept and parent is None else None
    return release.framed(latents(prepared.anchors), parent, on_anchors, kept)


if __name__ == "__main__":
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    main(Path(sys.argv[1]))
