"""The MLflow model of `scoring_peers`: the encoder on pandas frames, as one writes it by hand."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from torch.nn import Linear, ReLU, Sequential


class Encoder(mlflow.pyfunc.PythonModel):
    def load_context(self, context: Any) -> None:
        weights = torch.load(context.artifacts["weights"], weights_only=True)
        (hidden, columns), latents = weights["0.weight"].shape, len(weights["2.weight"])
        self.model = Sequential(Linear(columns, hidden), ReLU(), Linear(hidden, latents)).requires_grad_(False)
        self.model.load_state_dict(weights)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        features = self.model(torch.from_numpy(np.ascontiguousarray(model_input.to_numpy(np.float32)))).numpy()
        return pd.DataFrame(features, columns=[f"f{index}" for index in range(features.shape[1])])


mlflow.models.set_model(Encoder())
