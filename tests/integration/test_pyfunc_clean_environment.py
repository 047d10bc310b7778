"""The registered model where this project is not installed: only what the version itself declares."""

import subprocess
import sys
import venv
from pathlib import Path

import pandas as pd
import pytest

from tests.integration.house import House, orders

PREDICT = """
import importlib.util, sys
assert importlib.util.find_spec("aemodel") is None, "the project is installed here"
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/orders@champion")
rows = pd.read_parquet(sys.argv[2])
features = model.predict(rows)
features.to_parquet(sys.argv[3])
"""


@pytest.mark.timeout(600)
def test_a_version_loads_and_predicts_with_its_declared_requirements_alone(house: House, tmp_path: Path) -> None:
    venv.create(tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    (requirements,) = (house.work / "mlartifacts").rglob("requirements.txt")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    # Most of what is installed is never imported, so it need not be compiled.
    subprocess.run([*pip, "install", "--no-compile", "-r", str(requirements)], check=True)
    rows = orders(50, seed=9).to_pandas().assign(region=pd.Categorical(["north"] * 50))  # as pandas reads partitions
    rows.loc[3, ["price", "weight"]] = None
    rows.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "predict.py").write_text(PREDICT)
    uri = f"sqlite:///{house.work / 'mlflow.db'}"
    command = [str(python), "predict.py", uri, "rows.parquet", "features.parquet"]
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "mismatch" not in done.stderr.lower()

    here = _predicted_here(house, rows)
    clean = pd.read_parquet(tmp_path / "features.parquet")
    pd.testing.assert_frame_equal(clean, here, rtol=1e-4, atol=1e-5)


def _predicted_here(house: House, rows: pd.DataFrame) -> pd.DataFrame:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{house.work / 'mlflow.db'}")
    assert sys.modules["aemodel"]
    return mlflow.pyfunc.load_model("models:/orders@champion").predict(rows)
