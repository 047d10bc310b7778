"""The networks: how encoded rows become the linear space, latents and a reconstruction; what the loss is."""

from aemodel.model.autoencoder import Autoencoder, Loss, Reconstruction, reconstruct
from aemodel.model.batch import Batch, Linear
from aemodel.model.networks import (
    Contractive,
    Plain,
    PrincipalAxes,
    Residual,
    Sparse,
    Vanilla,
    Variational,
    build,
)
from aemodel.model.noise import SwapNoise

__all__ = [
    "Autoencoder",
    "Batch",
    "Contractive",
    "Linear",
    "Loss",
    "Plain",
    "PrincipalAxes",
    "Reconstruction",
    "Residual",
    "Sparse",
    "SwapNoise",
    "Vanilla",
    "Variational",
    "build",
    "reconstruct",
]
