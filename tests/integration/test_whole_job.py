"""What a user of the finished job can rely on: its result line, its table, and that doing it again costs nothing."""

import json
import os
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.integration.house import House, aemodel, orders


def _table(house: House) -> pd.DataFrame:
    return pd.read_parquet(house.first["table"])


def test_the_last_line_of_standard_output_is_one_object_with_the_promised_fields(house: House) -> None:
    first = house.first
    assert first["model"] == "orders" and first["model_version"] == "1" and first["rows"] == 1_200
    assert first["gate"] == {"passed": True, "reasons": []} and first["alias"] == "champion"
    assert first["r2"] >= first["r2_pca"] - 1e-4
    assert {"prepare", "train", "evaluate", "score", "publish"} <= first["seconds"].keys()
    assert first["train_rows_per_second"]["first_epoch"] > 0 and first["train_rows_per_second"]["steady"] > 0
    assert first["score_rows_per_second"] > 0 and first["peak_memory_mb"] > 100
    assert first["table_version"] == 1 and Path(first["table"]).exists()


def test_the_table_holds_the_input_rows_once_each_in_order_with_partitions(house: House) -> None:
    for region in ("north", "south"):
        given = pq.read_table(house.root / "orders" / f"region={region}" / "part-0.parquet")
        written = pq.ParquetFile(Path(house.first["table"]) / f"region={region}" / "part-0.parquet").read()
        assert written["order_id"].equals(given["order_id"])


def test_the_columns_are_keys_features_score_reasons_and_version(house: House) -> None:
    names = [c for c in _table(house).columns if c != "region"]
    features = [f"ae_{i:02d}" for i in range(4)]
    reasons = [f"ae_reason_{i}" for i in (1, 2, 3)]
    expected = [f"ae_{what}_{i}" for what in ("actual", "expected") for i in (1, 2, 3)]
    assert names == ["order_id", *features, "ae_error", "ae_error_rank", *reasons, *expected, "ae_model_version"]


def test_features_and_scores_are_finite_and_ranks_are_shares(house: House) -> None:
    table = _table(house)
    assert np.isfinite(table.filter(regex=r"ae_\d|ae_error").to_numpy()).all()
    assert table["ae_error_rank"].between(0, 1).all()
    assert set(table["ae_reason_1"].dropna()) <= {
        "price",
        "weight",
        "days",
        "carrier",
        "gift",
        "placed",
        "scan",
        "region",
    }
    assert (table["ae_model_version"] == "1").all()


def test_feature_columns_carry_their_lineage(house: House) -> None:
    schema = pq.read_schema(Path(house.first["table"]) / "region=north" / "part-0.parquet")
    lineage = schema.field("ae_02").metadata
    assert lineage[b"aemodel.model"] == b"orders" and lineage[b"aemodel.model_version"] == b"1"
    assert lineage[b"aemodel.latent"] == b"2" and len(lineage[b"aemodel.bundle"]) == 64


def test_the_cards_of_the_columns_lie_beside_the_table_and_with_the_version(house: House) -> None:
    path = Path(house.first["table"]).parent / "latents.parquet"
    cards = pd.read_parquet(path)
    assert cards["column"].tolist() == [f"ae_{i:02d}" for i in range(4)]
    assert (cards["std"] > 0).all() and cards["surrogate_r2"].notna().all()
    query = f"SELECT e.value, c.text FROM '{path}', unnest(exemplars_high) AS u(e), unnest(e.cells) AS v(c) WHERE \"column\" = 'ae_00' AND c.name = 'order_id'"
    table = _table(house).set_index("order_id")
    for value, order in duckdb.sql(query).fetchall():
        assert abs(table.loc[order, "ae_00"] - value) < 1e-5
    kept = next((house.work / "models").rglob("kept/latents.parquet"))
    assert pd.read_parquet(kept)["name"].tolist() == cards["name"].tolist()
    assert pq.read_schema(path).metadata[b"aemodel.model_version"] == b"1"


def test_duckdb_reads_the_table_as_the_summary_says(house: House) -> None:
    done = aemodel("run", house.job, "--work-dir", house.work)
    line = next(line for line in done.output.splitlines() if "duckdb:" in line)
    rows = duckdb.sql(line.split("duckdb:")[1]).fetchall()
    assert len(rows) == 10


def test_the_same_input_and_model_again_write_nothing_and_say_so(house: House) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path(house.first["table"]).parent.rglob("*.parquet")}
    done = aemodel("run", house.job, "--work-dir", house.work, "--json")
    assert done.code == 0 and done.json["changed"] is False and done.json["table_version"] == 1
    assert "nothing to score" in done.errors
    assert {p: p.stat().st_mtime_ns for p in Path(house.first["table"]).parent.rglob("*.parquet")} == before


def test_the_report_is_one_page_that_loads_nothing(house: House) -> None:
    page = Path(house.first["report"]).read_text()
    assert "orders" in page and "order_id" in page
    assert "<script src" not in page and "<link" not in page


def test_everything_but_the_table_lies_in_the_work_folder(house: House) -> None:
    inside = {p.name for p in house.root.iterdir() if p.suffix != ".yaml"}
    assert inside <= {"orders", "features", "work", "new", "new_features"}


def test_the_registered_version_scores_another_dataset(house: House) -> None:
    (house.root / "new").mkdir()
    pq.write_table(orders(70, seed=5).drop_columns(["channel"]), house.root / "new" / "late.parquet")
    job = house.root / "other.yaml"
    job.write_text(
        f"name: orders\ndataset: {{uri: {house.root}/new, key: [order_id]}}\noutput: {{uri: {house.root}/new_features}}\n"
    )
    # `region` is an input of the model, and this file has none.
    refused = aemodel("score", job, "--work-dir", house.work)
    assert refused.code == 2 and "needs column 'region'" in refused.errors
    assert not (house.root / "new_features").exists()
    table = pq.read_table(house.root / "new" / "late.parquet").append_column("region", pa.array(["north"] * 70))
    pq.write_table(table, house.root / "new" / "late.parquet")
    done = aemodel("score", job, "--work-dir", house.work, "--json")
    assert done.code == 0, done.errors
    assert done.json["rows"] == 70 and done.json["model_version"] == "1"
    assert pd.read_parquet(done.json["table"])["order_id"].tolist() == table["order_id"].to_pylist()


def test_the_run_in_mlflow_has_metrics_dataset_report_and_a_version_with_tags(house: House) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{house.work / 'mlflow.db'}")
    version = client.get_model_version_by_alias("orders", "champion")
    run = client.get_run(version.run_id)
    assert {"train_loss", "held_out_loss", "r2", "r2_pca"} <= run.data.metrics.keys()
    assert run.info.status == "FINISHED"
    assert run.inputs.dataset_inputs[0].dataset.digest == version.tags["aemodel.snapshot"][:32]
    assert "report.html" in {f.path for f in client.list_artifacts(version.run_id)}
    assert {"aemodel.snapshot", "aemodel.job", "aemodel.code", "aemodel.r2", "aemodel.gate"} <= version.tags.keys()


def test_no_pickle_lies_anywhere(house: House) -> None:
    models = [p for p in house.work.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib")]
    assert models == []


def test_the_journal_and_result_are_plain_json(house: House) -> None:
    run = Path(house.first["report"]).parent
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [0, 1, 2, 3]
    assert json.loads((run / "result.json").read_text())["world_size"] == 1
    assert os.access(run / "bundle" / "weights.safetensors", os.R_OK)
