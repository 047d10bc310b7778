"""A retrain on grown data keeps the columns; one that would change them is refused unless the job allows it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient

from tests.integration.house import House, aemodel, build_house, orders


def _grow(house: House) -> None:
    """New rows in a file of their own, which has a column more."""
    more = orders(500, seed=6)
    postage = more["weight"].to_numpy() * 2 + np.random.default_rng(3).normal(size=500)
    target = house.root / "orders" / "region=south" / "part-1.parquet"
    pq.write_table(more.append_column("postage", pa.array(postage)), target)


def test_a_release_keeps_the_columns_and_a_cold_redesign_must_be_allowed(tmp_path: Path) -> None:
    house = build_house(tmp_path, epochs=60)
    work = ("--work-dir", house.work, "--json")
    _grow(house)
    released = aemodel("run", house.job, *work)
    assert released.code == 0, released.errors
    assert "training goes on from version 1" in released.errors
    assert released.json["model_version"] == "2" and released.json["rows"] == 1_700

    schema = pq.read_schema(Path(released.json["table"]) / "region=south" / "part-1.parquet")
    past = [schema.field(f"ae_{i:02d}").metadata for i in range(4)]
    assert [m[b"aemodel.column_origin"] for m in past] == [b"1"] * 4
    assert all(m[b"aemodel.parent_version"] == b"1" and float(m[b"aemodel.r"]) >= 0.97 for m in past)
    client = MlflowClient(f"sqlite:///{house.work / 'mlflow.db'}")
    assert client.get_model_version("orders", "2").tags["aemodel.parent"] == "1"

    cold = house.variant(
        "cold", lambda t: t.replace("hidden: [32]", "preset: plain, hidden: [32]") + "gate: {min_gain_over_pca: -1}"
    )
    refused = aemodel("run", cold, *work)
    assert refused.code == 3, refused.errors
    assert any("would mean something else than in version 2" in r for r in refused.json["gate"]["reasons"])
    assert refused.json["changed"] is False, "the table stays the champion's"

    allowed = house.variant(
        "allowed",
        lambda _: cold.read_text().replace("min_gain_over_pca: -1", "min_gain_over_pca: -1, on_change: new_columns"),
    )
    done = aemodel("run", allowed, *work)
    reasons = done.json["gate"]["reasons"]
    assert not any("mean something else" in r for r in reasons), reasons
    origins = client.get_model_version("orders", done.json["model_version"]).tags["aemodel.column_origin"].split(",")
    assert "3" in origins, "columns with another meaning begin with the version that brought it"
