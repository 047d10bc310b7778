"""Dense layers, by the library that is fast on this processor, and in few passes over the rows.

torch leaves products of float32 to MKL, which on processors that are not Intel's reaches half of what they can do: 110
against 250 GFLOP/s of a core (AMD EPYC, AVX-512; 15 to 47 against 25 to 60 with AVX2 alone). oneDNN, which torch has,
knows them all, but is asked for products of float32 by compiled code alone; its operator is there for whoever calls it,
without gradients. Those are written here: for one layer, and for layers of relu, which torch passes over once for the
product and again for each relu, there and back. On Intel's processors MKL is as fast in the product and faster in its
gradients, which are left to it there: 44 to 66 against 27 to 61 GFLOP/s of a core (Xeon, AVX-512).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Rows of which a product is left to oneDNN are a multiple of this: it keeps the code that it makes for each number of
#: rows, up to a thousand times, which took 200 MB where batches are of any size.
ROWS = 512
#: Whether this torch was built with it, and whether it computes in bfloat16 here.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch._C._has_mkldnn
ONEDNN_BF16 = ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
#: As the processor names itself; None where this torch does not tell, which then counts as not Intel's.
PROCESSOR = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
#: Whether its products are faster in the gradients of float32, too.
ONEDNN_BACK = ONEDNN and "Intel" not in str(PROCESSOR)
#: And those over rows: with AVX2 alone they take two to three times as long, and elsewhere that was not measured.
ONEDNN_OVER_ROWS = ONEDNN_BACK and torch.backends.cpu.get_cpu_capability() == "AVX512"
#: Integers of as many bits.
INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (rows, inputs) @ weight (outputs, inputs)ᵀ + bias (outputs,), as `torch.nn.functional.linear`."""
    here = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.dim() == 2
    whole = len(x) // ROWS * ROWS if here and x.shape[1] else 0
    if not ONEDNN or not whole or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    product = _onednn(x[:whole], weight, bias)
    return product if whole == len(x) else torch.cat([product, F.linear(x[whole:], weight, bias)])


class Dense(nn.Linear):
    """As torch's, computed by oneDNN where that is faster, whether it learns or not."""

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
        if learns and x.dtype == self.weight.dtype == torch.float32 and _at_once(x, torch.float32):
            product: Tensor = _Dense.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return product
        return dense(x, self.weight, self.bias)


class ReluLayers(nn.Sequential):
    """Dense layers with relu, and perhaps dropout, between them.

    Where they learn, what is no number is zero behind a relu of oneDNN's, and the gradient has no gradient: `by_layer`
    has neither fault, and is what computes them elsewhere.
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        self.dense = [layer for layer in self if isinstance(layer, nn.Linear)]
        self.drops = any(isinstance(layer, nn.Dropout) for layer in self)

    def forward(self, x: Tensor) -> Tensor:
        if not self.at_once(x):
            return self.by_layer(x)
        if not torch.is_grad_enabled():  # what is no number stays none: a network that is spoilt is to be seen
            *hidden, last = self.dense
            for layer in hidden:
                x = layer(x).relu_()
            return cast(Tensor, last(x))
        layers: Tensor = _ReluLayers.apply(_dtype(), x, *self._weights())  # type: ignore[no-untyped-call]
        return layers

    def by_layer(self, x: Tensor) -> Tensor:
        """The same, each layer by itself."""
        layers: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return layers

    def at_once(self, x: Tensor) -> bool:
        """Whether they are computed together, and not each by itself, of rows such as `x`."""
        return not self.drops and not torch.compiler.is_compiling() and _at_once(x, _dtype())

    def there_and_back(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor, bool], Tensor | None]]:
        """As `forward`, without autograd: what it gives, and what takes the gradient of that, leaves the weights' in
        their `grad`, which it replaces, and gives that of `x` where it is asked for. Only of rows that are `at_once`.
        """
        weights = self._weights()
        output, inputs, matrices = _there(_dtype(), x, weights)

        def back(gradient: Tensor, of_input: bool) -> Tensor | None:
            of_x, of_weights = _back(gradient, inputs, matrices, of_input)
            for weight, of_weight in zip(weights, of_weights, strict=True):
                weight.grad = of_weight
            return of_x

        return output, back

    def _weights(self) -> list[Tensor]:
        return [weight for layer in self.dense for weight in (layer.weight, layer.bias)]


def _dtype() -> torch.dtype:
    """What layers are computed in here."""
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32


def _at_once(x: Tensor, dtype: torch.dtype) -> bool:
    known = x.device.type == "cpu" and x.dtype in INTEGER and x.dim() == 2 and x.numel() > 0
    if dtype is torch.bfloat16:
        return known and ONEDNN_BF16 and torch.get_autocast_dtype("cpu") is dtype
    return known and ONEDNN and x.dtype is torch.float32


class _Dense(torch.autograd.Function):
    """One layer in float32, whose gradient has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient, of_x = gradient.contiguous(), None
        if torch.is_grad_enabled():  # oneDNN's products are the end of a gradient's way
            of_x, of_weight = gradient @ weight, gradient.t() @ x
        else:
            of_x = _product(gradient, weight) if ctx.needs_input_grad[0] else None
            of_weight = _over_rows(gradient, x)
        return of_x, of_weight, gradient.sum(dim=0) if ctx.has_bias else None


class _ReluLayers(torch.autograd.Function):
    """Dense layers with relu between them, computed in `dtype`; `weights` are the weight and bias of each in turn."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, x: Tensor, *weights: Tensor) -> Tensor:
        output, inputs, matrices = _there(dtype, x, weights)
        ctx.save_for_backward(*inputs, *matrices)
        ctx.of_input = x.dtype
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        assert not torch.is_grad_enabled(), "only layers computed one by one have a gradient of their gradient"
        saved = ctx.saved_tensors
        count = len(saved) // 2
        of_x, of_weights = _back(gradient, saved[:count], saved[count:], ctx.needs_input_grad[1])
        return None, None if of_x is None else of_x.to(ctx.of_input), *of_weights


def _there(
    dtype: torch.dtype, x: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    """What layers with relu between them give, what goes into each of them, and the matrix of each, all of `dtype`;
    `weights` are the matrix and bias of each in turn."""
    if dtype is not torch.float32:  # to ask each tensor to be what it is takes a twentieth of a small step
        x, weights = x.to(dtype), [w.to(dtype) for w in weights]
    matrices, biases, inputs = weights[::2], weights[1::2], [x]
    for matrix, bias in zip(matrices[:-1], biases[:-1], strict=True):
        inputs.append(_onednn(inputs[-1], matrix, bias, "relu"))
    return _onednn(inputs[-1], matrices[-1], biases[-1]), inputs, matrices


def _back(
    gradient: Tensor, inputs: Sequence[Tensor], matrices: Sequence[Tensor], of_input: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradient of x, where it is asked for, and, in float32, those of each matrix and bias in turn, from that of
    what `_there` gave."""
    gradient, of_weights = gradient.contiguous(), []
    for place in reversed(range(len(inputs))):
        of_weights += [gradient.sum(dim=0), _over_rows(gradient, inputs[place])]
        if place:
            gradient = _product(gradient, matrices[place])
            _stop_where_zero(gradient, inputs[place])
    if gradient.dtype is not torch.float32:
        of_weights = [of_weight.float() for of_weight in of_weights]
    return _product(gradient, matrices[0]) if of_input else None, of_weights[::-1]


def _stop_where_zero(gradient: Tensor, output: Tensor) -> None:
    """In place: nothing goes back where a relu gave nothing. Numbers above zero are integers above zero when their bits
    are read as such, which torch compares in half the time."""
    integer = INTEGER[output.dtype]
    bits = gradient.view(integer)
    torch.ops.aten.threshold_backward.grad_input(bits, output.view(integer), 0, grad_input=bits)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """one (n, k) @ other (k, m), of a gradient; what is of bfloat16 torch leaves to oneDNN by itself."""
    return torch.mm(one, other) if one.dtype is torch.bfloat16 or not ONEDNN_BACK else _onednn(one, other.t())


def _over_rows(one: Tensor, other: Tensor) -> Tensor:
    """oneᵀ (n, rows) @ other (rows, m). oneDNN is handed its first operand row by row, for which torch turns it, at the
    cost of half the product: so the narrower of the two is."""
    if one.dtype is torch.float32 and not ONEDNN_OVER_ROWS:
        return torch.mm(one.t(), other)
    if one.dtype is torch.bfloat16 or one.shape[1] <= other.shape[1]:
        return _product(one.t(), other)
    # Lying as the weight does: torch's fused optimisers read both from end to end.
    return _product(other.t(), one).t().contiguous()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """`then` "relu" takes no further pass."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, then, [], "")
    return product
