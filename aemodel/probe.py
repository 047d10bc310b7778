"""What a label can be read off feature columns by a simple model: whether they hold what someone downstream wants."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

#: Rows that a probe is fitted and tested on; its noise falls with the square root of them.
PROBED_ROWS = 5_000
FOLDS = 3
#: A label with more values than this is read as a number, or not at all if it is none.
MOST_CLASSES = 50
ENOUGH_A_CLASS = 2 * FOLDS
ENOUGH_ROWS = 100


@dataclass(frozen=True)
class Target:
    """A label to be read off features: class codes or numbers of the rows that have one, at places `rows`."""

    rows: np.ndarray
    values: np.ndarray
    measure: str

    @classmethod
    def of(cls, label: pa.Array) -> Target | None:
        """None where the label can not be probed: too few rows, one class, or names without end."""
        known = np.flatnonzero(np.asarray(label.is_valid()))[:PROBED_ROWS]
        present = label.take(pa.array(known))
        if pa.types.is_float16(present.type) or pa.types.is_decimal(present.type):
            present = present.cast(pa.float64())
        classes = pc.dictionary_encode(present.cast(pa.string()) if pa.types.is_boolean(present.type) else present)
        if len(classes.dictionary) <= MOST_CLASSES:
            codes = classes.indices.to_numpy()
            often = np.isin(codes, np.flatnonzero(np.bincount(codes, minlength=1) >= ENOUGH_A_CLASS))
            _, values = np.unique(codes[often], return_inverse=True)
            rows, measure = known[often], "AUROC" if values.max(initial=0) == 1 else "accuracy"
            enough = values.max(initial=0) >= 1
        elif pa.types.is_integer(present.type) or pa.types.is_floating(present.type):
            values = present.cast(pa.float64()).to_numpy(zero_copy_only=False)
            finite = np.isfinite(values)
            rows, values, measure, enough = known[finite], values[finite], "R²", True
        else:
            return None
        return cls(rows, values, measure) if enough and len(rows) >= ENOUGH_ROWS else None

    def score(self, features: np.ndarray) -> float:
        """Cross-validated score of a linear model on standardised features (rows, k): the target's `measure`."""
        x, y = features[self.rows].astype(np.float64), self.values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a probe that has not converged the score still stands
            if self.measure == "R²":
                found = cross_val_predict(make_pipeline(StandardScaler(), Ridge()), x, y, cv=KFold(FOLDS))
                return float(1 - np.square(y - found).sum() / max(np.square(y - y.mean()).sum(), 1e-300))
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
            found = cross_val_predict(model, x, y, cv=folds, method="predict_proba")
        if self.measure == "AUROC":
            return float(roc_auc_score(y, found[:, 1]))
        return float((found.argmax(axis=1) == y).mean())

    @property
    def noise(self) -> float:
        """By how much two equally good scores on these rows may differ: two standard errors, at least 0.01."""
        return max(0.01, 1.0 / float(np.sqrt(len(self.rows))))
