from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aemodel import dense
from aemodel.config import ModelJob
from aemodel.dense import ONEDNN, ONEDNN_BF16
from aemodel.model import Autoencoder, Batch, SwapNoise, build
from aemodel.model.descent import LossFunction, descent_of, loss_of
from aemodel.pca import principal_axes
from tests import tables
from tests.model.test_autoencoder import built, stirred

pytestmark = pytest.mark.skipif(not ONEDNN, reason="this torch was built without oneDNN")


def taken(model: Autoencoder, loss: LossFunction, clean: Batch, noisy: Batch, trim: float = 0.0) -> list[Tensor]:
    """The loss of a batch and the gradient of each weight."""
    model.zero_grad(set_to_none=True)
    total = loss(clean.values, clean.codes, noisy.values, noisy.codes, clean.complete, trim)
    if total.requires_grad:
        total.backward()
    assert all(p.grad is None or p.grad.is_contiguous() for p in model.parameters()), "read from end to end"
    return [total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(1, 300),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
def test_loss_and_gradients_are_autograd_s(
    hidden: list[int], rows: int, noisy: bool, complete: bool, bf16: bool, onednn: bool, seed: int
) -> None:
    model, layout, batch = built("plain", hidden=hidden)
    stirred(model)
    if complete:
        known = ~batch.values.isnan().any(dim=1)
        batch = Batch(batch.values[known], batch.codes[known], True)
    torch.manual_seed(seed)
    batch = batch[torch.randint(len(batch.values), (rows,))]
    given_in = SwapNoise(layout, 0.2)(batch) if noisy else batch
    found, handed = [], (batch.values, batch.codes, given_in.values, given_in.codes)
    with (
        pytest.MonkeyPatch.context() as patched,
        torch.autocast("cpu", torch.bfloat16, enabled=bf16 and ONEDNN_BF16),
    ):
        patched.setattr(dense, "ONEDNN_BACK", onednn)
        patched.setattr(dense, "ONEDNN_OVER_ROWS", onednn)
        for of in (descent_of, loss_of):
            found.append(taken(model, of(model, False), batch, given_in))
        assert not descent_of(model, False)(*handed, batch.complete, 0.0).requires_grad
    assert len(found[0]) == len(found[1]) == 1 + len(list(model.parameters()))
    for mine, autograds in zip(*found, strict=True):
        assert mine.dtype == autograds.dtype == torch.float32
        near = (0.05 if bf16 else 1e-4) * float(autograds.abs().max()) + 1e-6
        torch.testing.assert_close(mine, autograds, rtol=0, atol=near)


def test_gradients_are_replaced_and_the_loss_has_none_to_go_back_through() -> None:
    model, _, batch = built("plain")
    loss = descent_of(model, False)
    first = taken(model, loss, batch, batch)
    for _ in range(2):
        total = loss(batch.values, batch.codes, batch.values, batch.codes, False, 0.0)
    assert not total.requires_grad
    for weight, gradient in zip(model.parameters(), first[1:], strict=True):
        assert weight.grad is not None and torch.equal(weight.grad, gradient)


@pytest.mark.parametrize(
    ("preset", "job", "trim"),
    [
        ("plain", {}, 0.05),
        ("plain", {"dropout": 0.2}, 0.0),
        ("plain", {"nested": True}, 0.0),
        ("variational", {}, 0.0),
        ("contractive", {}, 0.0),
        ("residual", {}, 0.0),
        ("sparse", {}, 0.0),
        ("vanilla", {}, 0.0),
    ],
)
def test_what_is_not_written_out_is_left_to_autograd(preset: str, job: dict[str, Any], trim: float) -> None:
    model, _, batch = built(preset, **job)
    stirred(model)
    nested, found = bool(job.get("nested")), []
    for of in (descent_of, loss_of):
        torch.manual_seed(3)
        loss = of(model, nested)
        assert loss(batch.values, batch.codes, batch.values, batch.codes, False, trim).requires_grad
        torch.manual_seed(4)
        found.append(taken(model, loss, batch, batch, trim))
    for mine, autograds in zip(*found, strict=True):
        assert torch.equal(mine, autograds)


def test_noise_reaches_a_table_of_levels_alone() -> None:
    table = tables.mixed().select(["carrier"])
    transform = tables.transform_of(table, "standard")
    rows = transform.apply(tables.only_batch(table))
    torch.manual_seed(0)
    job = ModelJob(preset="plain", latent_dim=2, hidden=[8])
    model = build(job, transform.layout, principal_axes(transform.layout, [rows], 2))
    clean = Batch.of(rows)
    noisy = SwapNoise(transform.layout, 0.4)(clean)
    assert noisy.values is clean.values and not torch.equal(noisy.codes, clean.codes)
    for of in (descent_of, loss_of):
        loss = of(model, False)
        seen, copied = taken(model, loss, clean, noisy)[0], taken(model, loss, clean, clean)[0]
        assert seen > copied + 1e-6 or seen < copied - 1e-6
