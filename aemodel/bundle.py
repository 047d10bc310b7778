"""All that inference needs, as a folder: weights (safetensors), transform, schema and provenance (JSON). No pickle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from aemodel import neighbours
from aemodel.anomaly import Calibration, Evidence, calibrate, evidence
from aemodel.config import ModelJob
from aemodel.errors import BundleError, BundleFormatError, shown
from aemodel.files import digest, read_json, whole_folder, write_json
from aemodel.layout import EncodedRows
from aemodel.model import Autoencoder, Batch, PrincipalAxes, build
from aemodel.neighbours import Neighbours
from aemodel.transform import Transform

FORMAT_VERSION = 4
FILES = ("weights.safetensors", "calibration.safetensors", "neighbours.safetensors", "transform.json")
WEIGHTS, CALIBRATION, NEIGHBOURS, TRANSFORM = FILES
MANIFEST = "bundle.json"


@dataclass(frozen=True)
class Provenance:
    """Where a bundle comes from: what it is called, what it was trained on, by which job and code."""

    name: str
    snapshot: str
    job: str
    code: str
    rows: int


@dataclass(frozen=True)
class Bundle:
    model: Autoencoder
    job: ModelJob
    transform: Transform
    calibration: Calibration
    neighbours: Neighbours
    provenance: Provenance
    digest: str = ""

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.transform.layout.columns

    def evidence(self, rows: EncodedRows) -> tuple[Evidence, Tensor]:
        """What makes encoded rows strange, and their latents (rows, k), which the decoder makes its expectation of."""
        return evidence_of(self.model, self.transform, self.neighbours, rows)

    def nearest_numbers(self, rows: EncodedRows) -> np.ndarray | None:
        """`Neighbours.nearest` to encoded rows."""
        return self.neighbours.nearest(*_parts(self.model, self.transform, rows))

    def extremes(self) -> dict[str, pa.Array]:
        """The least and the largest number that training rows of which some are kept hold, by column that has them."""
        found = self.neighbours.extremes(self.transform.layout.num_values)
        return {} if found is None else self.transform.original(found)


def calibrated(
    model: Autoencoder,
    job: ModelJob,
    transform: Transform,
    held_out: EncodedRows,
    anchors: EncodedRows,
    provenance: Provenance,
) -> Bundle:
    """A trained network with what else scoring needs: `anchors` are training rows, distances to which are measured;
    what is usual is taken from the held-out rows."""
    near = neighbours.fit(*_parts(model, transform, anchors), _parts(model, transform, held_out))

    def measured(rows: EncodedRows) -> Evidence:
        at_once = transform.layout.rows_at_once
        starts = range(0, max(1, len(rows)), at_once)
        parts = [evidence_of(model, transform, near, rows[s : s + at_once])[0] for s in starts]
        return Evidence.concatenated(parts)

    calibration = calibrate(measured(held_out), measured(anchors).features)
    return Bundle(model, job, transform, calibration, near, provenance)


@torch.inference_mode()
def _parts(model: Autoencoder, transform: Transform, rows: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
    """Rows as distances are measured in: numbers without their curve, and the rest of the linear space."""
    x, _ = model.linear(Batch.of(rows).to(model.device))
    return transform.numbers(rows), x[:, rows.values.shape[1] :].cpu().numpy()


@torch.inference_mode()
def evidence_of(
    model: Autoencoder, transform: Transform, near: Neighbours, rows: EncodedRows
) -> tuple[Evidence, Tensor]:
    """`Bundle.evidence`, before there is a bundle."""
    by_column, z, x = model.squared_errors(Batch.of(rows).to(model.device))
    features, column_of = model.features(z).cpu().numpy(), model.column_of.cpu().numpy()
    numbers, others = transform.numbers(rows), x[:, rows.values.shape[1] :].cpu().numpy()
    return evidence(by_column.cpu().numpy(), features, near, numbers, others, column_of), z


def save(bundle: Bundle, folder: Path) -> None:
    """Write the bundle to `folder`, whole or not at all."""
    with whole_folder(folder) as partial:
        save_file({k: v.contiguous() for k, v in bundle.model.state_dict().items()}, partial / WEIGHTS)
        arrays = {k: np.ascontiguousarray(np.asarray(v, np.float64)) for k, v in vars(bundle.calibration).items()}
        save_arrays(arrays, partial / CALIBRATION)
        save_arrays(bundle.neighbours.to_arrays(), partial / NEIGHBOURS)
        write_json(partial / TRANSFORM, bundle.transform.to_json())
        manifest = {
            "format_version": FORMAT_VERSION,
            "model": bundle.job.model_dump(mode="json"),
            "latent_dim": bundle.model.latent_dim,
            "provenance": vars(bundle.provenance),
            "sha256": {name: _sha256(partial / name) for name in FILES},
        }
        write_json(partial / MANIFEST, manifest)


def load(folder: Path) -> Bundle:
    """Read a bundle, checking every file against its manifest. Raises BundleError."""
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest["format_version"] != FORMAT_VERSION:
            raise BundleFormatError(
                f"the bundle {shown(folder)} has format {manifest['format_version']}, "
                f"this release reads {FORMAT_VERSION}: retrain, or score with the release that wrote it"
            )
        for name in FILES:
            if _sha256(folder / name) != manifest["sha256"][name]:
                raise BundleError(f"{name} in the bundle {shown(folder)} is not the file that was saved; restore it")
        return _loaded(folder, manifest)
    except BundleError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"{shown(folder)} is not a complete bundle ({type(error).__name__}: {error})") from None


def _loaded(folder: Path, manifest: dict[str, Any]) -> Bundle:
    transform = Transform.from_json(read_json(folder / TRANSFORM))
    job = ModelJob.model_validate(manifest["model"])
    width, latent_dim = transform.layout.width, manifest["latent_dim"]
    empty = PrincipalAxes(np.zeros(width), np.zeros((width, latent_dim)), np.zeros(latent_dim))
    model = build(job, transform.layout, empty)
    model.load_state_dict(load_file(folder / WEIGHTS))
    model.eval().requires_grad_(False)
    return Bundle(
        model,
        job,
        transform,
        Calibration(**load_arrays(folder / CALIBRATION)),
        Neighbours.from_arrays(load_arrays(folder / NEIGHBOURS)),
        Provenance(**manifest["provenance"]),
        digest(manifest["sha256"]),
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
