from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from aemodel.layout import FIRST_LEVEL, LINEAR_LEVELS, EncodedRows, Layout
from aemodel.transform import Transform
from tests import tables


@pytest.fixture(scope="module")
def transform() -> Transform:
    return tables.transform_of(tables.mixed())


@pytest.fixture(scope="module")
def layout(transform: Transform) -> Layout:
    return transform.layout


def test_every_dimension_belongs_to_exactly_one_column(layout: Layout) -> None:
    dimensions = [d for b in layout.blocks for d in b.dimensions]
    assert sorted(dimensions) == list(range(layout.width))
    owner = layout.column_of_dimension()
    for index, block in enumerate(layout.blocks):
        assert (owner[block.dimensions] == index).all()


def test_columns_stand_in_the_order_of_the_inputs(layout: Layout) -> None:
    assert layout.columns == tables.INPUTS


def test_values_come_first_then_flags_then_levels(layout: Layout) -> None:
    flags = [b.flag for b in layout.flags]
    assert flags == list(range(layout.num_values, layout.num_values + len(flags)))
    starts = [b.levels[0] for b in layout.categorical]
    assert min(starts) == layout.num_values + len(flags)
    assert max(b.levels[1] for b in layout.categorical) == layout.width


def test_only_columns_with_missing_cells_have_a_flag(layout: Layout) -> None:
    assert [b.column for b in layout.flags] == ["amount", "flag", "seen"]


def test_the_parts_of_a_time_are_one_cell_and_the_elements_of_a_vector_one_each(layout: Layout) -> None:
    cells = layout.cell_of_value()
    blocks = {b.column: b for b in layout.blocks}
    assert len(set(cells[slice(*blocks["seen"].values)])) == 1
    assert len(set(cells[slice(*blocks["profile"].values)])) == 3
    assert len(set(cells[slice(*blocks["amount"].values)])) == 1
    assert sorted(set(cells.tolist())) == list(range(8 + 3))


def test_a_categorical_has_a_code_and_no_values(layout: Layout) -> None:
    carrier, colour = layout.categorical
    assert (carrier.code, colour.code, layout.num_codes) == (0, 1, 2)
    assert carrier.values == (0, 0)
    assert carrier.num_levels == len(tables.CARRIERS) + FIRST_LEVEL


def test_many_levels_share_a_bounded_number_of_dimensions() -> None:
    table = pa.table({"x": [f"level-{i % 200:03d}" for i in range(2000)]})
    (block,) = tables.transform_of(table).layout.blocks
    assert block.num_levels == 200 + FIRST_LEVEL
    assert block.levels == (0, LINEAR_LEVELS + FIRST_LEVEL)


def rows(count: int, nulled: tuple[int, ...] = ()) -> EncodedRows:
    values = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    return EncodedRows(values, np.arange(count, dtype=np.int32)[:, None], nulled)


def test_rows_are_taken_by_slice_and_by_index() -> None:
    taken = rows(5)[np.array([3, 0])]
    assert taken.codes[:, 0].tolist() == [3, 0]
    assert taken.values[:, 0].tolist() == [6, 0]
    assert len(rows(5)[1:3]) == 2


def test_concatenated_rows_keep_their_order_and_add_up_what_was_nulled() -> None:
    whole = EncodedRows.concatenated([rows(2, (1, 0)), rows(3, (2, 5))])
    assert whole.codes[:, 0].tolist() == [0, 1, 0, 1, 2]
    assert whole.nulled == (3, 5)
    assert whole.nbytes == 5 * (2 * 4 + 4)
    assert EncodedRows.concatenated([rows(2), rows(3)]).nulled == ()
