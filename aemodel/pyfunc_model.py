"""The MLflow model, from code: MLflow runs this file to load a registered version.

It travels with a copy of this package, so that a version loads where the project is not installed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from aemodel import bundle
from aemodel.config import OutputJob
from aemodel.errors import SchemaError, nearest, shown
from aemodel.kept import HELD_OUT
from aemodel.scoring import Scorer

#: Rows that are scored at a time.
BATCH_ROWS = 65_536
#: What MLflow writes beside a model that it fetches as a registered version.
REGISTERED = "registered_model_meta"


class FeatureColumns(PythonModel):
    """Takes a DataFrame of input columns, gives one of feature columns; a missing column counts as missing values."""

    def load_context(self, context: Any) -> None:
        folder, config = Path(context.artifacts["bundle"]), context.model_config or {}
        loaded = bundle.load(folder)
        version = _version(folder.parents[1]) or loaded.digest[:12]
        self.scorer = Scorer(loaded, OutputJob.model_validate(config.get("output", {})), version)
        self.types = pq.read_schema(Path(context.artifacts["kept"]) / HELD_OUT)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        batches = self._table(model_input).combine_chunks().to_batches(max_chunksize=BATCH_ROWS)
        scored = pa.Table.from_batches([self.scorer.score(b) for b in batches], self.scorer.schema)
        return scored.to_pandas().set_index(model_input.index)

    def _table(self, frame: pd.DataFrame) -> pa.Table:
        """The input columns that `frame` has. Raises SchemaError if it has none, or one that Arrow cannot hold."""
        inputs = self.scorer.bundle.input_columns
        known = [n for n in inputs if n in frame.columns]
        if not known:  # MLflow hands on the known columns alone, and with none of them no rows
            asked = f"the input has no column of {shown(self.scorer.bundle.provenance.name)}"
            raise SchemaError(f"{asked} version {self.scorer.version}: name its columns; {nearest('', inputs)}")
        try:
            table = pa.Table.from_pandas(frame[known], preserve_index=False)
        except pa.ArrowException as error:
            raise SchemaError(f"the input cannot be read ({error}): give each column values of one type") from None
        return pa.table({n: _as_trained(table.column(n), self.types.field(n).type) for n in known})


def _as_trained(column: pa.ChunkedArray, trained: pa.DataType) -> pa.ChunkedArray:
    """A column of times in the unit and zone that the training rows had, and one without a value of their type."""
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), trained)])
    if pa.types.is_temporal(trained):
        with suppress(pa.ArrowException):  # what cannot be cast may still be read as its kind
            return column.cast(trained, safe=False)
    return column


def _version(model: Path) -> str | None:
    """The number of the registered version that was loaded; None of a model loaded by its run or its folder."""
    path = model / REGISTERED
    if not path.exists():
        return None
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["model_version"])


set_model(FeatureColumns())
