"""The MLflow model, from code: MLflow runs this file to load a registered version.

It travels with a copy of this package, so that a version loads where the project is not installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from aemodel import bundle
from aemodel.config import OutputJob
from aemodel.scoring import Scorer


class FeatureColumns(PythonModel):
    """Takes a DataFrame of input columns, gives one of feature columns; a missing column counts as missing values."""

    def load_context(self, context: Any) -> None:
        loaded = bundle.load(Path(context.artifacts["bundle"]))
        config = context.model_config or {}
        output = OutputJob.model_validate(config.get("output", {}))
        self.scorer = Scorer(loaded, output, config.get("version", loaded.digest[:12]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        batches = pa.Table.from_pandas(model_input, preserve_index=False).combine_chunks().to_batches()
        scored = pa.Table.from_batches([self.scorer.score(b) for b in batches], self.scorer.schema)
        return scored.to_pandas().set_index(model_input.index)


set_model(FeatureColumns())
