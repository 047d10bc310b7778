"""The registered model on the DataFrames that people have: those that pandas reads of the very table it learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import _parse_json_data

from aemodel import bundle
from aemodel.config import OutputJob, RegistryJob
from aemodel.errors import SchemaError
from aemodel.job_file import parse_job
from aemodel.kept import Kept
from aemodel.prepared import prepare, table_schema
from aemodel.registry import Registry
from aemodel.scoring import Scorer
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables

FEATURES = ["ae_00", "ae_01", "ae_02", "ae_03"]


def _dataset(folder: Path) -> Snapshot:
    """The mixed table in partitions, with a duration, and with numbers and moments that are read as categories."""
    table = tables.mixed()
    months, shift = np.arange(300) % 3 + 1, np.arange(300) // 100
    table = table.append_column("lasted", pa.array(np.arange(300) % 50 * 1_500, pa.int64()).cast(pa.duration("ms")))
    table = table.append_column("shift", pa.array(shift * 3_600_000_000, pa.int64()).cast(pa.timestamp("us")))
    table = table.append_column("grade", pa.array(shift, pa.int64())).append_column("month", pa.array(months))
    return open_snapshot(str(tables.write_hive(table, folder, "month")))


@dataclass(frozen=True)
class Registered:
    folder: Path
    run: str
    frame: pd.DataFrame
    scored: pd.DataFrame
    model: PyFuncModel

    def columns(self, frame: pd.DataFrame) -> pd.DataFrame:
        return self.model.predict(frame)[FEATURES]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """A version in a registry of its own, the rows it was made of as pandas reads them, and as the job scores them."""
    root = tmp_path_factory.mktemp("registered")
    snapshot = _dataset(root / "rows")
    dataset = {"uri": snapshot.uri, "key": ["row_id"], "label": "label"}
    dataset["columns"] = {"shift": {"kind": "categorical"}, "grade": {"kind": "categorical"}}
    job = parse_job({"name": "mixed", "dataset": dataset, "model": {"latent_dim": 4, "hidden": [16]}}, "job")
    prepared = prepare(job, snapshot, table_schema(snapshot, job.dataset))
    made = tables.bundle_of(prepared, job)
    bundle.save(made, root / "bundle")
    Kept(
        prepared.anchors, np.zeros((prepared.anchors.num_rows, 4), np.float32), prepared.held_out, tables.NO_CARDS
    ).save(root / "kept")
    registry = Registry(RegistryJob(), root / "work")
    run = registry.start_run("mixed", "key", {}, {})
    registry.register(run, "mixed", "key", bundle.load(root / "bundle"), root, OutputJob(), {})
    scorer = Scorer(made, OutputJob(), "1")
    batches = [b for i in range(len(snapshot.fragments)) for b in snapshot.read_fragment(i, snapshot.schema.names)]
    scored = pa.Table.from_batches([scorer.score(b) for b in batches], scorer.schema).to_pandas()
    mlflow.set_tracking_uri(registry.uri)
    return Registered(root, run, pd.read_parquet(root / "rows"), scored, mlflow.pyfunc.load_model("models:/mixed/1"))


def test_the_very_rows_that_were_learned_are_scored_as_the_job_scores_them(registered: Registered) -> None:
    assert str(registered.frame["month"].dtype) == "category" and registered.frame["logged"].dt.tz is not None
    given = registered.model.predict(registered.frame)
    pd.testing.assert_frame_equal(given, registered.scored, rtol=1e-4, atol=1e-4)


AS_PEOPLE_HOLD_THEM: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "pandas' nullable types": lambda f: f.convert_dtypes(),
    "pyarrow's types": lambda f: f.convert_dtypes(dtype_backend="pyarrow"),
    "objects": lambda f: f.astype(object),
    "narrow integers": lambda f: f.astype({"count": "int16", "grade": "int8", "month": "int32"}),
    "wide integers": lambda f: f.astype({"count": "int64", "month": "int64"}),
    "integers as floats": lambda f: f.astype({"count": float, "grade": float, "month": float}),
    "integers as categories": lambda f: f.astype({"count": "category", "grade": "category"}),
    "strings as categories": lambda f: f.astype({"carrier": "category", "colour": "category"}),
    "strings as objects": lambda f: f.astype({"carrier": object, "colour": object}),
    "booleans as floats": lambda f: f.assign(flag=f["flag"].map({True: 1.0, False: 0.0})),
    "decimals as floats": lambda f: f.astype({"price": float}),
    "moments in nanoseconds": lambda f: f.assign(**{n: f[n].astype("M8[ns]") for n in ("seen", "shift")}),
    "moments in another zone": lambda f: f.assign(logged=f["logged"].dt.tz_convert("Asia/Tokyo")),
    "moments without a zone": lambda f: f.assign(logged=f["logged"].dt.tz_localize(None)),
    "moments as text": lambda f: f.assign(seen=f["seen"].dt.strftime("%Y-%m-%dT%H:%M:%S")),
    "durations in nanoseconds": lambda f: f.assign(lasted=f["lasted"].astype("m8[ns]")),
    "vectors as lists": lambda f: f.assign(profile=[list(v) for v in f["profile"]]),
    "an index of its own": lambda f: f.set_index(f["row_id"] % 7),
}  # fmt: skip


@pytest.mark.parametrize("how", AS_PEOPLE_HOLD_THEM)
def test_the_same_values_give_the_same_features_however_pandas_holds_them(how: str, registered: Registered) -> None:
    frame = AS_PEOPLE_HOLD_THEM[how](registered.frame)
    given = registered.columns(frame)
    assert given.index.equals(frame.index)
    np.testing.assert_allclose(given.to_numpy(), registered.scored[FEATURES].to_numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "Int64", "int64[pyarrow]", "object"])
def test_an_integer_that_was_never_missing_in_training_may_be_now(dtype: str, registered: Registered) -> None:
    frame = registered.frame.copy()
    frame["count"] = pd.Series([None, *frame["count"].tolist()[1:]], dtype=dtype)
    given, before = registered.columns(frame), registered.scored[FEATURES]
    assert np.isfinite(given.to_numpy()).all() and not np.allclose(given.iloc[0], before.iloc[0])
    np.testing.assert_allclose(given.iloc[1:], before.iloc[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("column", tables.INPUTS)
def test_a_column_without_a_value_counts_as_one_that_is_not_there(column: str, registered: Registered) -> None:
    empty = registered.columns(registered.frame.assign(**{column: None}))
    pd.testing.assert_frame_equal(empty, registered.columns(registered.frame.drop(columns=[column])))


@pytest.mark.parametrize("rows", [0, 1])
def test_as_many_rows_come_out_as_went_in(rows: int, registered: Registered) -> None:
    given = registered.model.predict(registered.frame.head(rows))
    assert len(given) == rows and list(given.columns) == list(registered.scored.columns)


def test_a_frame_without_any_input_is_refused_in_one_line(registered: Registered) -> None:
    with pytest.raises(
        SchemaError, match="^the input has no column of 'mixed' version 1: name its columns; known: 'am"
    ):
        registered.model.predict(pd.DataFrame({"q": [1, 2]}))


def test_a_column_of_values_of_several_types_is_named(registered: Registered) -> None:
    mixed = registered.frame.assign(carrier=[1, *registered.frame["carrier"].tolist()[1:]])
    with pytest.raises(SchemaError, match="column carrier .*: give each column values of one type"):
        registered.model.predict(mixed)


def test_a_column_that_cannot_be_read_as_its_kind_is_named(registered: Registered) -> None:
    with pytest.raises(SchemaError, match="column 'amount' is .*string.*, which cannot be read as numeric"):
        registered.model.predict(registered.frame.assign(amount="much"))


def test_rows_sent_to_a_model_server_as_json_are_scored_alike(registered: Registered) -> None:
    rows = registered.frame.head(5)
    sent = {"dataframe_split": json.loads(rows.to_json(orient="split", date_format="iso", date_unit="us"))}
    wanted = ["amount", "count", "price", "flag", "carrier", "seen", "profile", "month"]
    metadata: Any = registered.model.metadata
    frame = _parse_json_data(json.dumps(sent), metadata, metadata.get_input_schema()).data[wanted]
    np.testing.assert_allclose(registered.columns(frame), registered.columns(rows[wanted]), rtol=1e-4, atol=1e-4)


def test_the_version_is_the_registry_s_number_or_else_the_bundle_s_digest(registered: Registered) -> None:
    rows = registered.frame.head(2)
    assert registered.model.predict(rows)["ae_model_version"].tolist() == ["1", "1"]
    (folder,) = (p.parent for p in (registered.folder / "work").rglob("MLmodel"))
    (folder / "registered_model_meta").unlink()
    unnamed = mlflow.pyfunc.load_model(str(folder)).predict(rows)["ae_model_version"]
    assert unnamed.tolist() == [bundle.load(registered.folder / "bundle").digest[:12]] * 2
