from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aemodel.part import write_part
from aemodel.publish import CARDS, CARDS_LINK, Table
from tests.publish.published import features, read, staged


def published_with_cards(table: Table, key: str, rows: pa.Table, name: str) -> None:
    with table.lock():
        manifest = staged(table, key, {"p.parquet": rows})
        cards = pa.table({"column": ["ae_00"], "name": [name]})
        write_part(table.staging(key) / CARDS, cards.to_batches(), cards.schema)
        table.commit(manifest)


def test_cards_lie_beside_the_table_and_are_read_by_pandas_and_duckdb(table: Table) -> None:
    published_with_cards(table, "a" * 64, features(), "+amount")
    path = table.root / CARDS_LINK
    assert pd.read_parquet(path)["name"].tolist() == ["+amount"]
    assert duckdb.sql(f"SELECT name FROM '{path}' WHERE \"column\" = 'ae_00'").fetchall() == [("+amount",)]


def test_readers_of_the_table_s_rows_do_not_see_the_cards(table: Table) -> None:
    published_with_cards(table, "a" * 64, features(), "+amount")
    assert read(table) == pd.read_parquet(table.path)["row_id"].tolist() == list(range(5))
    assert duckdb.sql(f"SELECT count(*) FROM '{table.path}/**/*.parquet'").fetchall() == [(5,)]


def test_cards_switch_with_the_table_and_before_it_a_killed_run_changes_neither(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_with_cards(table, "a" * 64, features(), "+amount")
    seen, real = [], os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append((read(table)[0], pq.read_table(table.root / CARDS_LINK)["name"][0].as_py()))
        real(source, target)
        seen.append((read(table)[0], pq.read_table(table.root / CARDS_LINK)["name"][0].as_py()))

    monkeypatch.setattr(os, "replace", replace)
    published_with_cards(table, "b" * 64, features(100), "+price")
    assert set(seen) == {(0, "+amount"), (100, "+price")}


def test_a_first_publish_that_was_cut_short_before_the_switch_can_be_done_again(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "current":
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", replace)
        published_with_cards(table, "a" * 64, features(), "+amount")
    assert (table.root / CARDS_LINK).is_symlink() and not table.path.exists()
    published_with_cards(Table.open(str(table.root), None), "a" * 64, features(), "+amount")
    assert pq.read_table(table.root / CARDS_LINK).num_rows == 1
