"""What a person reads at the end of a run."""

from __future__ import annotations

from typing import Any

from aemodel.errors import shown
from aemodel.pipeline import Outcome


def summary(outcome: Outcome) -> str:
    """A short text: the table, the figures against PCA, the gate, the strangest rows, how to open it."""
    lines = [""]
    if outcome.rows is not None:
        state = "" if outcome.changed else "  (unchanged: nothing to score)"
        lines.append(f"  rows      {outcome.rows:,} in, {outcome.rows:,} out{state}")
    if outcome.r2 is not None and outcome.r2_pca is not None:
        lines.append(
            f"  R²        {outcome.r2:.3f} on held-out rows; PCA of the same width {outcome.r2_pca:.3f} "
            f"({outcome.r2 - outcome.r2_pca:+.3f})"
        )
    if outcome.gate is not None:
        lines.append(f"  gate      {'passed' if outcome.gate['passed'] else 'REFUSED: ' + '; '.join(outcome.gate['reasons'])}")
    alias = f", alias {outcome.alias}" if outcome.alias else ""
    lines.append(f"  model     {outcome.model} version {outcome.model_version}{alias}")
    if outcome.strangest:
        lines += ["", "  the strangest rows"]
        lines += [_strange(i + 1, row) for i, row in enumerate(outcome.strangest)]
    if outcome.report:
        lines += ["", f"  report    {outcome.report}"]
    if outcome.table:
        lines += [
            f"  table     {outcome.table} (version {outcome.table_version})",
            f"            duckdb:  SELECT * FROM '{outcome.table}/**/*.parquet' ORDER BY ae_error DESC LIMIT 10",
            f"            pandas:  pd.read_parquet('{outcome.table}')",
        ]
    return "\n".join([*lines, ""])


def _strange(place: int, row: dict[str, Any]) -> str:
    """One row: its score, then the reasons with their cells, then some others that tell which row it is."""
    cells = dict(row["cells"])
    reasons = ", ".join(f"{shown(n, 30)[1:-1]} = {cells.get(n, '?')}" for n in row["reasons"])
    others = [f"{shown(n, 20)[1:-1]} {v}" for n, v in cells.items() if n not in row["reasons"] and v != "missing"]
    return f"  {place}. score {row['error']:,.0f}: {reasons}\n     ({', '.join(others[:8])})"
