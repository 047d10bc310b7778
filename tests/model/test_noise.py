from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from aemodel.model.noise import _bits, _swapped


@given(st.integers(1, 60), st.integers(0, 9), st.integers(0, 5))
def test_a_swapped_cell_is_taken_from_so_many_rows_further_down(rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    cells, swapped = torch.arange(rows * columns).view(rows, columns), torch.rand(rows, columns) < 0.4
    shift = torch.randint(rows, (columns,))
    before, found = cells.clone(), _swapped(cells, swapped, shift)
    assert torch.equal(cells, before)
    for row in range(rows):
        for column in range(columns):
            donor = (row + int(shift[column])) % rows if swapped[row, column] else row
            assert found[row, column] == cells[donor, column]


def test_bits_are_as_many_as_asked_for_and_any_with_the_same_chance() -> None:
    torch.manual_seed(0)
    found = _bits(999, 101, torch.device("cpu"))
    assert found.shape == (999, 101) and found.dtype is torch.int16
    bits = (found.flatten()[: 999 * 100].view(-1, 4, 1).int() >> torch.arange(16)) & 1  # (drawn, place in it, bit)
    assert (bits.double().mean(dim=0) - 0.5).abs().max() < 0.02
    alike = (bits[:, :, None] == bits[:, None, :]).double().mean(dim=0)[~torch.eye(4, dtype=torch.bool)]
    assert (alike - 0.5).abs().max() < 0.02, "one place tells nothing of another"
    assert not torch.equal(found, _bits(999, 101, torch.device("cpu")))
