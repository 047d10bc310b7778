"""Two real ranks on one processor: the same plan, the same loss within noise, one bundle."""

import json
from pathlib import Path

from tests.integration.house import House, aemodel


def test_two_ranks_reach_the_loss_of_one_with_the_same_global_batch(house: House, tmp_path: Path) -> None:
    two = house.variant(
        "two", lambda t: t.replace("name: orders", "name: two").replace("max_epochs", "devices: 2, max_epochs")
    )
    two.write_text(
        two.read_text().replace("/features", "/two_features").replace(f"{house.root}/two", f"{tmp_path}/two")
    )
    done = aemodel("run", two, "--work-dir", tmp_path / "work", "--json")
    assert done.code == 0, done.errors
    (run,) = (tmp_path / "work" / "runs").glob("two-*/")
    result = json.loads((run / "result.json").read_text())
    one = json.loads((Path(house.first["report"]).parent / "result.json").read_text())
    assert result["world_size"] == 2 and result["batch_size"] == one["batch_size"] == 128
    assert result["steps"] == one["steps"]
    assert abs(result["best_loss"] - one["best_loss"]) < 0.1 * one["best_loss"]
    assert abs(done.json["r2"] - house.first["r2"]) < 0.02
