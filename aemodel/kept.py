"""What a registered version keeps beside its bundle, so that the next one can be measured against it.

- `anchors`: raw training rows, and `reference` (rows, k), the feature columns that they had when each column first
  got its meaning. Through retrains both stay as they are, so that meaning cannot creep away step by step.
- `held_out`: raw rows that were held out, on which the gate compares versions.
- `latents`: the cards of its feature columns (see `aemodel.card`), which go to every table that it writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aemodel.errors import BundleError, shown
from aemodel.files import whole_folder

ANCHORS, HELD_OUT, LATENTS = "anchors.parquet", "held_out.parquet", "latents.parquet"
#: The column of `anchors.parquet` that holds the reference; no dataset can have one of this name twice.
REFERENCE = "__aemodel_reference__"
#: Held-out rows that are kept; the gate's figures change little with more.
HELD_OUT_ROWS = 20_000


@dataclass(frozen=True)
class Kept:
    anchors: pa.Table
    reference: np.ndarray
    held_out: pa.Table
    latents: pa.Table

    def save(self, folder: Path) -> None:
        """Write to `folder`, whole or not at all."""
        flat = pa.array(np.ascontiguousarray(self.reference, np.float32).ravel())
        reference = pa.FixedSizeListArray.from_arrays(flat, self.reference.shape[1])
        with whole_folder(folder) as partial:
            pq.write_table(self.anchors.append_column(REFERENCE, reference), partial / ANCHORS)
            pq.write_table(self.held_out, partial / HELD_OUT)
            pq.write_table(self.latents, partial / LATENTS)

    @staticmethod
    def sampled(held_out: pa.Table) -> pa.Table:
        """As many of a run's held-out rows as are kept, in order."""
        chosen = np.random.default_rng(0).permutation(held_out.num_rows)[:HELD_OUT_ROWS]
        return held_out.take(pa.array(np.sort(chosen)))

    @classmethod
    def load(cls, folder: Path) -> Kept:
        """Raises BundleError."""
        try:
            anchors = pq.read_table(folder / ANCHORS, partitioning=None)
            held_out = pq.read_table(folder / HELD_OUT, partitioning=None)
            latents = pq.read_table(folder / LATENTS, partitioning=None)
            column = anchors.column(REFERENCE).combine_chunks()
            reference = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise BundleError(f"what the version keeps in {shown(folder)} cannot be read ({error})") from None
        return cls(anchors.drop_columns([REFERENCE]), reference, held_out, latents)
