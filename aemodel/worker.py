"""What torchrun starts, once a rank: a prepared run folder in, `bundle/` and `result.json` out.

    python -m torch.distributed.run --nproc-per-node 2 -m aemodel.worker RUN_FOLDER

Knows neither Prefect nor MLflow. An error meant for a person is left in `error.json` for the parent.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from aemodel import bundle, release, training
from aemodel.anomaly import calibrate
from aemodel.config import Job
from aemodel.errors import AemodelError
from aemodel.files import read_json, write_json
from aemodel.launch import die_with_parent
from aemodel.layout import EncodedRows, Layout
from aemodel.loader import EncodedRowGroups, HeldOutLoader, TrainingLoader
from aemodel.model import Autoencoder, build, reconstruct
from aemodel.plan import plan_for
from aemodel.prepared import Prepared
from aemodel.snapshot import Snapshot


def main(folder: Path) -> None:
    die_with_parent()
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        run(folder, rank, world_size, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    except AemodelError as error:
        write_json(folder / f"error-{rank}.json", {"message": str(error), "exit_code": error.exit_code})
        sys.exit(error.exit_code)


def run(folder: Path, rank: int, world_size: int, devices: int) -> None:
    """Train this rank's share; rank 0 writes the bundle and the result."""
    job = Job.model_validate(read_json(folder / "job.json"))
    snapshot, prepared = Snapshot.load(folder / "snapshot.json"), Prepared.load(folder / "prepared")
    pl.seed_everything(job.training.seed, workers=False, verbose=False)
    layout = prepared.transform.layout
    model = build(job.model, layout, prepared.pca)  # the same on every rank
    held_out = prepared.encoded_held_out(prepared.transform)
    teacher = _from_parent(model, folder, layout, held_out)
    batch_size = -(-training.global_batch_size(job.training, prepared.num_training) // world_size)
    plan = plan_for(prepared.groups, world_size, batch_size, job.training.seed)
    schedule = training.schedule_for(job.training, plan.batch_size, plan.steps)
    learner = training.Learner(model, layout, job.model, schedule, job.training.seed, teacher)
    read = EncodedRowGroups(snapshot, prepared.split, prepared.transform)
    result = training.fit(
        learner,
        TrainingLoader(plan, rank, read),
        HeldOutLoader(held_out, rank, world_size),
        job.training,
        folder,
        devices,
    )
    if rank == 0:
        best = learner.averaged.cpu().eval().requires_grad_(False)
        measured = reconstruct(best, HeldOutLoader(held_out, 0, 1))
        provenance = bundle.Provenance(**read_json(folder / "provenance.json"))
        calibration = calibrate(measured.errors, measured.latents)
        bundle.save(bundle.Bundle(best, job.model, prepared.transform, calibration, provenance), folder / "bundle")
        write_json(folder / "result.json", training.result_state(result))


def _from_parent(model: Autoencoder, folder: Path, layout: Layout, held_out: EncodedRows) -> training.Teacher | None:
    """Start `model` at the parent that the run was prepared with, if there is one, and keep a copy to hold it by."""
    if not (folder / "parent").exists():
        return None
    parent = bundle.load(folder / "parent")
    release.transplant(parent, model, layout)
    latents = reconstruct(model.eval(), HeldOutLoader(held_out, 0, 1)).latents[:, : parent.model.latent_dim]
    return training.Teacher(copy.deepcopy(model), torch.from_numpy(latents.var(axis=0)))


if __name__ == "__main__":
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    main(Path(sys.argv[1]))
