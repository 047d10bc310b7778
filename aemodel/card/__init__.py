"""What a person can read about a feature column: what drives it, what it stands for, which rows lie at its ends."""

from aemodel.card.latent import Cell, Change, Exemplar, Gain, LatentCard, Loading, Share, as_table, from_table
from aemodel.card.written import NONLINEAR, cards

__all__ = [
    "NONLINEAR",
    "Cell",
    "Change",
    "Exemplar",
    "Gain",
    "LatentCard",
    "Loading",
    "Share",
    "as_table",
    "cards",
    "from_table",
]
