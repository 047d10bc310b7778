from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from aemodel.bundle import Bundle
from aemodel.card import NONLINEAR, LatentCard, as_table, cards, from_table
from aemodel.card.written import EXEMPLARS
from aemodel.columns import OutputColumns
from aemodel.config import ModelJob
from aemodel.model import build
from aemodel.prepared import Prepared
from tests import tables

COLUMNS = OutputColumns("ae_", 4)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return tables.plain(tables.mixed(600, seed=1))


@pytest.fixture(scope="module")
def found(mixed_bundle: Bundle, rows: pa.Table) -> tuple[LatentCard, ...]:
    return cards(mixed_bundle, rows, COLUMNS)


def test_there_is_a_card_for_each_column_by_its_name(found: tuple[LatentCard, ...]) -> None:
    assert tuple(c.column for c in found) == COLUMNS.features
    assert all(c.drivers and c.gains and c.loadings and c.traversal for c in found)


def test_the_first_column_is_named_by_what_the_table_is_made_of(found: tuple[LatentCard, ...]) -> None:
    first = found[0]
    assert {t[1:].partition("=")[0] for t in first.name.split()} <= {"amount", "count", "price", "flag", "carrier"}
    assert first.surrogate_r2 is not None and first.surrogate_r2 > 0.9
    assert first.nested_gain == max(c.nested_gain for c in found)


def test_an_untrained_residual_network_is_linear_and_its_loadings_are_the_turned_axes(
    mixed_bundle: Bundle, found: tuple[LatentCard, ...]
) -> None:
    assert all(c.nonlinear_share == pytest.approx(0, abs=1e-6) for c in found)
    axes = mixed_bundle.model.linear_axes
    assert axes is not None
    turned = (axes @ mixed_bundle.model.frame_matrix).numpy()
    for j, card in enumerate(found):
        np.testing.assert_allclose(abs(card.loadings[0].weight), np.abs(turned[:, j]).max(), rtol=1e-6)
    sizes = [abs(e.weight) for e in found[0].loadings]
    assert sizes == sorted(sizes, reverse=True)


def test_what_g_adds_is_the_non_linear_share(mixed_bundle: Bundle, rows: pa.Table, mixed_prepared: Prepared) -> None:
    import torch

    model = build(mixed_bundle.job, mixed_bundle.transform.layout, mixed_prepared.pca).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(model.g[-1].weight, std=0.5)  # type: ignore[union-attr,index,arg-type]
    bent = cards(replace(mixed_bundle, model=model.requires_grad_(False)), rows, COLUMNS)
    assert all(c.nonlinear_share is not None and c.nonlinear_share > 0.05 for c in bent)


def test_exemplars_are_the_rows_at_the_ends_keys_first(found: tuple[LatentCard, ...], rows: pa.Table) -> None:
    for card in found:
        low, high = card.exemplars_low, card.exemplars_high
        assert len(low) == len(high) == EXEMPLARS
        assert low[0].value <= low[-1].value < high[-1].value <= high[0].value
        assert [c.name for c in low[0].cells[:2]] == ["row_id", "label"]
        assert low[0].cells[2].name == card.drivers[0].input
        row = rows.slice(int(low[0].cells[0].text), 1)
        assert row["label"][0].as_py() == low[0].cells[1].text


@pytest.mark.parametrize("preset", ["plain", "variational", "contractive", "sparse", "vanilla"])
def test_every_preset_has_cards(mixed_bundle: Bundle, mixed_prepared: Prepared, rows: pa.Table, preset: str) -> None:
    job = ModelJob(preset=preset, hidden=(16,), latent_dim=4)  # type: ignore[arg-type]
    model = build(job, mixed_bundle.transform.layout, mixed_prepared.pca).eval().requires_grad_(False)
    for card in cards(replace(mixed_bundle, model=model, job=job), rows, COLUMNS):
        assert card.nonlinear_share is None or card.nonlinear_share >= 0
        assert (card.name == NONLINEAR) == (card.surrogate_r2 is None or card.surrogate_r2 < 0.5)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_of_a_few_rows_nothing_is_told_that_they_cannot_tell(mixed_bundle: Bundle, rows: pa.Table, count: int) -> None:
    for card in cards(mixed_bundle, rows.slice(0, count), COLUMNS):
        assert card.name == NONLINEAR and card.surrogate_r2 is None and card.robustness is None
        assert np.isfinite([card.std, card.nested_gain, *(d.share for d in card.drivers)]).all()


def test_cards_survive_their_table_and_duckdb_joins_its_lists(found: tuple[LatentCard, ...]) -> None:
    latents = as_table(found)
    assert from_table(latents) == found
    query = 'SELECT "column", d.input, d.share FROM latents, unnest(drivers) AS u(d) ORDER BY "column", d.share DESC LIMIT 1'
    assert duckdb.sql(query).fetchall() == [(found[0].column, found[0].drivers[0].input, found[0].drivers[0].share)]
    assert (
        duckdb.sql("SELECT exemplars_low[1].cells[1].text FROM latents").fetchall()[0][0]
        == found[0].exemplars_low[0].cells[0].text
    )
