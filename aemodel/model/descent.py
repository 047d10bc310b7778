"""The loss of a batch as a function of tensors alone, and, where its gradient can be written out, without autograd.

What autograd does around a step's products, a node a layer and a sum a weight, is a fifth of a step of a thousand rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aemodel.model.autoencoder import Autoencoder
from aemodel.model.batch import Batch
from aemodel.model.networks import Plain
from aemodel.model.squared_error import difference

#: Of values, codes, noisy values, noisy codes, whether no value is missing, and the share that is trimmed. The gradient
#: is to be gone back for, or where the loss has none already lies in the weights.
LossFunction = Callable[..., Tensor]


def loss_of(model: Autoencoder, nested: bool) -> LossFunction:
    """The loss, which a compiler can read; equal rows twice mean no noise."""

    def loss(
        values: Tensor, codes: Tensor, noisy_values: Tensor, noisy_codes: Tensor, complete: bool, trim: float
    ) -> Tensor:
        clean = Batch(values, codes, complete)
        same = noisy_values is values and noisy_codes is codes
        noisy = clean if same else Batch(noisy_values, noisy_codes, complete)
        return model.loss(clean, noisy, nested, trim).total

    return loss


def descent_of(model: Autoencoder, nested: bool) -> LossFunction:
    """As `loss_of`, but where the gradient is written out it already lies in the weights' `grad`, which is replaced,
    and the loss has none to go back through."""
    by_autograd = loss_of(model, nested)
    if type(model) is not Plain or nested:  # those that follow on it draw their latents, or pay for them
        return by_autograd
    encoder, decoder, columns = model.encoder, model.decoder, model.num_columns

    def descent(
        values: Tensor, codes: Tensor, noisy_values: Tensor, noisy_codes: Tensor, complete: bool, trim: float
    ) -> Tensor:
        clean = Batch(values, codes, complete)
        x, observed = model.linear(clean) if values.device.type == "cpu" and not trim else (None, None)
        if x is None or not (encoder.at_once(x) and decoder.at_once(x)):
            return by_autograd(values, codes, noisy_values, noisy_codes, complete, trim)
        with torch.no_grad():
            same = noisy_values is values and noisy_codes is codes
            seen = x if same else model.linear(Batch(noisy_values, noisy_codes, complete))[0]
            z, to_input = encoder.there_and_back(seen)
            decoded, to_latents = decoder.there_and_back(z)
            missed = difference(decoded, x, observed)
            loss = model.objective(model.by_column((missed * missed).mean(dim=0)))
            of_latents = to_latents(missed.mul_(2 / (len(x) * columns)).to(decoded.dtype), True)
            assert of_latents is not None
            to_input(of_latents, False)
        return loss

    return descent
