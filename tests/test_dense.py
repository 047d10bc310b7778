from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from aemodel import dense as module
from aemodel.dense import Dense, dense


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
def test_onednn_is_asked_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(module.F, "linear", lambda *a: asked.append(a) or F.linear)
    layer, x = Dense(4, 3), torch.randn(module.ROWS, 4)
    with torch.inference_mode():
        layer(x)
    assert not asked
    layer(x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        layer(x)
    with torch.inference_mode():
        layer.double()(x.double())
    assert len(asked) == 3


def test_a_layer_learns() -> None:
    layer, plain, x = Dense(4, 3), torch.nn.Linear(4, 3), torch.randn(5, 4)
    plain.load_state_dict(layer.state_dict())
    for one in (layer, plain):
        one(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
