"""What a flow run shows on its page: a summary and tables."""

from __future__ import annotations

import re
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from aemodel.pipeline import Outcome


def show(outcome: Outcome) -> None:
    """Create the run's artifacts: `<model>-summary` (Markdown) and `<model>-strangest` (table)."""
    key = re.sub(r"[^a-z0-9]+", "-", outcome.model.lower()).strip("-")
    create_markdown_artifact(markdown(outcome), key=f"{key}-summary", description="What the run learned and wrote")
    if outcome.strangest:
        rows = [_strange(row) for row in outcome.strangest]
        create_table_artifact(rows, key=f"{key}-strangest", description="The strangest rows of the table")


def _strange(row: dict[str, Any]) -> dict[str, Any]:
    because = {"reasons": ", ".join(row["reasons"]), "expected": ", ".join(e or "" for e in row["expected"])}
    return {"score": round(row["error"], 1)} | because | dict(row["cells"])


def markdown(outcome: Outcome) -> str:
    """The outcome as a Markdown table."""
    facts: dict[str, str] = {}
    if outcome.rows is not None:
        facts["rows"] = f"{outcome.rows:,}" + ("" if outcome.changed else " (unchanged: nothing to score)")
    if outcome.r2 is not None and outcome.r2_pca is not None:
        rows = "R² on the training rows (too few to hold any out)" if outcome.held_out_is_training else "held-out R²"
        facts[rows] = f"{outcome.r2:.4f}"
        facts["PCA of the same width"] = f"{outcome.r2_pca:.4f} ({outcome.r2 - outcome.r2_pca:+.4f})"
    if outcome.verdict:
        facts["gate"] = outcome.verdict
    facts["model"] = f"{outcome.model} version {outcome.model_version}" + (
        f" @{outcome.alias}" if outcome.alias else ""
    )
    if outcome.table:
        facts["table"] = f"`{outcome.table}` (version {outcome.table_version})"
    if outcome.report:
        facts["report"] = f"`{outcome.report}`"
    facts["seconds"] = ", ".join(f"{step} {seconds:.1f}" for step, seconds in outcome.seconds.items())
    lines = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    return "\n".join([f"## {_cell(outcome.model)}", "", "| | |", "|---|---|", *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
