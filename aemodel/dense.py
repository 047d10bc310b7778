"""A dense layer's product, by the library that is fast on this processor.

torch leaves products of float32 to MKL, which on processors that are not Intel's reaches half of what they can do: 110
against 250 GFLOP/s of a core (AMD EPYC, AVX-512). oneDNN, which torch has too, knows them all, but is asked for
products of float32 by compiled code alone; its operator is there for whoever calls it, without gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Rows of which a product is left to oneDNN are a multiple of this: it keeps the code that it makes for each number of
#: rows, up to a thousand times, which took 200 MB where batches are of any size.
ROWS = 512
#: Whether this torch was built with it.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch._C._has_mkldnn


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (rows, inputs) @ weight (outputs, inputs)ᵀ + bias (outputs,), as `torch.nn.functional.linear`."""
    here = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.dim() == 2
    whole = len(x) // ROWS * ROWS if here and x.shape[1] else 0
    if not ONEDNN or not whole or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x[:whole], weight, bias, "none", [], "")
    return product if whole == len(x) else torch.cat([product, F.linear(x[whole:], weight, bias)])


class Dense(nn.Linear):
    """As torch's, computed by `dense`."""

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight, self.bias)
