"""What features are worth: one function a measure, a number out. What scikit-learn has is scikit-learn's."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import accuracy_score, normalized_mutual_info_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aemodel.layout import Layout
from aemodel.model import Autoencoder, Batch

NEIGHBOURS = 15
#: Rows of the measures whose cost grows with the square of the rows.
SMALL_SAMPLE = 2_000
#: Of a hidden level.
DRAWS = 8


def _score(truth: np.ndarray, probability: np.ndarray) -> float:
    """AUROC for two classes, accuracy for more."""
    if probability.shape[1] == 2:
        return float(roc_auc_score(truth, probability[:, 1]))
    return float(accuracy_score(truth, probability.argmax(axis=1)))


def logistic(train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Score of a logistic probe on standardised features; `y` and `truth` hold class codes from 0."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return _score(truth, probe.fit(train, y).predict_proba(test))


def neighbours(train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Score of a 15-nearest-neighbours probe on the features as they are."""
    return _score(truth, KNeighborsClassifier(NEIGHBOURS, n_jobs=-1).fit(train, y).predict_proba(test))


def boosting(train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Score of histogram gradient boosting with scikit-learn's defaults."""
    return _score(truth, HistGradientBoostingClassifier(random_state=0).fit(train, y).predict_proba(test))


def cluster_agreement(test: np.ndarray, truth: np.ndarray) -> float:
    """Normalised mutual information of k-means clusters, as many as classes, with the classes."""
    found = KMeans(int(truth.max()) + 1, n_init=4, random_state=0).fit_predict(test)
    return float(normalized_mutual_info_score(truth, found))


def neighbourhoods_kept(inputs: np.ndarray, features: np.ndarray) -> tuple[float, float]:
    """(trustworthiness, continuity) of `features` for the neighbourhoods in `inputs` (Venna and Kaski, 2006).

    Continuity is trustworthiness with the two spaces exchanged.
    """
    a, b = inputs[:SMALL_SAMPLE], features[:SMALL_SAMPLE]
    size = min(NEIGHBOURS, (len(a) - 1) // 2)
    return float(trustworthiness(a, b, n_neighbors=size)), float(trustworthiness(b, a, n_neighbors=size))


def same_place_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|r| of each column of `a` (rows, k) with the same column of `b`; Pearson's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([abs(np.nan_to_num(np.corrcoef(x, y)[0, 1])) for x, y in zip(a.T, b.T, strict=True)])


def robustness(clean: np.ndarray, noisy: np.ndarray) -> float:
    """The mean over columns of the rank correlation of features with those of the same rows under noise."""
    ranks = [(rankdata(x), rankdata(y)) for x, y in zip(clean.T, noisy.T, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):  # of a column that is constant nothing can be said
        return float(np.nanmean([np.corrcoef(x, y)[0, 1] for x, y in ranks]))


@torch.inference_mode()
def masked_r2(model: Autoencoder, layout: Layout, rows: Batch) -> np.ndarray:
    """(columns,): the R² of each source column where it is hidden from the encoder, of at most SMALL_SAMPLE rows.

    A number is hidden by its mean. A level has none, so what is reconstructed is the mean over DRAWS of it from other
    rows, which for a linear model comes to the same. Of a vector a quarter of the elements is hidden at a time.
    """
    rows = rows[:SMALL_SAMPLE]
    x, observed = model.linear(rows)
    rng = torch.Generator().manual_seed(0)
    found = []
    for block in layout.blocks:
        places = np.array(block.dimensions)
        quarters = [places[i::4] for i in range(4)] if block.kind == "vector" and len(places) >= 4 else [places]
        error = variation = 0.0
        for hidden in quarters:
            if block.code is None:
                values = rows.values.clone()
                values[:, torch.tensor(hidden[hidden < layout.num_values])] = float("nan")
                seen = _restored(model, Batch(values, rows.codes))
            else:
                seen = torch.zeros_like(x)
                for _ in range(DRAWS):
                    codes = rows.codes.clone()
                    codes[:, block.code] = codes[torch.randperm(len(codes), generator=rng), block.code]
                    seen += _restored(model, Batch(rows.values, codes)) / DRAWS
            known = torch.ones_like(x, dtype=torch.bool)
            if observed is not None:
                known[:, : layout.num_values] = observed
            at = torch.tensor(hidden)
            error += float(((seen - x).square() * known)[:, at].sum())
            about = ((x - _mean(x, known)) * known)[:, at]
            variation += float(about.square().sum())
        found.append(1 - error / variation if variation > 1e-6 * len(x) else np.nan)
    return np.array(found)


def _restored(model: Autoencoder, rows: Batch) -> torch.Tensor:
    return model.decode(model.encode_linear(model.linear(rows)[0], rows)).float()


def _mean(x: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (x * known).sum(dim=0) / known.sum(dim=0).clamp(min=1)
