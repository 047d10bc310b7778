from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from aemodel import dense as module
from aemodel.dense import ROWS, Dense, ReluLayers, dense


@given(
    st.integers(0, 40) | st.integers(500, 1_100),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    st.integers(0, 5),
)
def test_a_product_is_torch_s(rows: int, inputs: int, outputs: int, with_bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if with_bias else None
    with torch.inference_mode():
        torch.testing.assert_close(dense(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
        # Columns of a larger matrix, and one that is turned.
        wide = torch.randn(inputs, rows + 3).T[3:]
        torch.testing.assert_close(dense(wide, weight, bias), F.linear(wide, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not module.ONEDNN, reason="this torch was built without oneDNN")
def test_onednn_is_asked_for_float32_whether_a_gradient_is_wanted_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(module.F, "linear", lambda *a: asked.append(a) or F.linear)
    layer, x = Dense(4, 3), torch.randn(module.ROWS, 4)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert not asked
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        with torch.inference_mode():
            layer(x)
    with torch.inference_mode():
        layer.double()(x.double())
    assert len(asked) == 3


def layers(*sizes: int, dropout: float = 0.0) -> ReluLayers:
    made: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        made += [Dense(inputs, outputs), torch.nn.ReLU(), *([torch.nn.Dropout(dropout)] if dropout else [])]
    return ReluLayers(*made, Dense(sizes[-2], sizes[-1]))


def learned(net: ReluLayers, x: torch.Tensor, by_layer: bool, weight: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad(set_to_none=True)
    x = x.detach().clone().requires_grad_(x.requires_grad)
    y = net.by_layer(x) if by_layer else net(x)
    (y.float() * weight).sum().backward()
    return [y, *([x.grad] if x.requires_grad else []), *(p.grad for p in net.parameters())]


@given(
    st.integers(1, 40) | st.integers(500, 1_100),
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
def test_layers_of_relu_learn_as_they_do_one_by_one(
    rows: int, sizes: list[int], of_input: bool, bf16: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    net, x, weight = layers(*sizes), torch.randn(rows, sizes[0]), torch.randn(rows, sizes[-1])
    x.requires_grad_(of_input)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        one, other = (learned(net, x, by_layer, weight) for by_layer in (False, True))
    for found, expected in zip(one, other, strict=True):
        assert found.dtype == expected.dtype
        near = float((0.05 if bf16 else 1e-4) * expected.float().abs().max()) + 1e-6
        torch.testing.assert_close(found, expected, rtol=0, atol=near)


@pytest.mark.parametrize(("back", "over_rows"), [(False, False), (module.ONEDNN, False), (module.ONEDNN,) * 2])
def test_layers_learn_the_same_whichever_library_their_gradients_are_left_to(
    back: bool, over_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ONEDNN_BACK", back)
    monkeypatch.setattr(module, "ONEDNN_OVER_ROWS", over_rows)
    net, x, weight = layers(9, 5, 6, 7), torch.randn(600, 9), torch.randn(600, 7)
    found = learned(net, x, False, weight)
    weights = [w.detach().clone().requires_grad_() for layer in net.dense for w in (layer.weight, layer.bias)]
    y = x
    for place in range(0, len(weights), 2):
        y = F.linear(y.relu() if place else y, weights[place], weights[place + 1])
    (y * weight).sum().backward()
    for one, other in zip(found, [y, *(w.grad for w in weights)], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not module.ONEDNN, reason="this torch was built without oneDNN")
def test_layers_of_relu_are_one_step_of_the_gradient_s_way_where_they_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, net = torch.randn(8, 4), layers(4, 6, 3)
    assert type(net(x).grad_fn).__name__ == "_ReluLayersBackward"
    with pytest.raises(AssertionError, match="one by one"):
        torch.autograd.grad(net(x.requires_grad_()).sum(), x, create_graph=True)
    drops, passed = layers(4, 6, 3, dropout=0.5), []
    for one in (drops, net):
        monkeypatch.setattr(one, "by_layer", lambda x: passed.append(x) or x)
    drops(x)
    net(x.double())
    net(x[:0])
    with torch.autocast("cpu", torch.float16):
        net(x)
    assert len(passed) == 4


@pytest.mark.parametrize("rows", [8, ROWS, ROWS + 8])
def test_layers_of_relu_give_the_same_where_nothing_learns(rows: int) -> None:
    x, net = torch.randn(rows, 4), layers(4, 6, 5, 3)
    x[0, 0] = x[-1, 1] = float("nan")
    with torch.no_grad():
        found = net(x)
        torch.testing.assert_close(found, net.by_layer(x), equal_nan=True)
    assert found[[0, -1]].isnan().all() and found[1:-1].isfinite().all()


@given(
    st.integers(1, 40) | st.integers(500, 1_100), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans()
)
def test_a_layer_and_its_slope_learn_as_torch_s(
    rows: int, inputs: int, outputs: int, with_bias: bool, of_slope: bool
) -> None:
    torch.manual_seed(rows)
    layer, plain = Dense(inputs, outputs, bias=with_bias), torch.nn.Linear(inputs, outputs, bias=with_bias)
    plain.load_state_dict(layer.state_dict())
    found = []
    rows_of, direction = torch.randn(rows, inputs), torch.randn(rows, outputs)
    for one in (layer, plain):
        x = rows_of.clone().requires_grad_()
        loss = (one(x).square() * direction).mean()
        if of_slope:
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            loss = slope.square().sum()
        loss.backward()
        found.append([loss.detach(), x.grad, *(p.grad for p in one.parameters())])
    for mine, torchs in zip(*found, strict=True):
        near = 1e-4 * float(torchs.abs().max()) + 1e-7
        torch.testing.assert_close(mine, torchs, rtol=0, atol=near)
