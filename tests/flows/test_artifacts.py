from __future__ import annotations

from dataclasses import replace

from prefect.client.orchestration import get_client

from aemodel.pipeline import Outcome
from flows.artifacts import markdown
from tests.flows.conftest import Done

OUTCOME = Outcome("orders", "3", "/features/current", 2, 1_234, True, 0.9, 0.85, gate={"passed": True, "reasons": []})


def test_a_run_leaves_a_summary_and_a_table_of_the_strangest_rows(done: Done) -> None:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={}).json()
    summaries = [str(a["data"]) for a in found if a["key"] == "orders-summary"]
    assert any("PCA of the same width" in text for text in summaries)
    assert any("order_id" in str(a["data"]) for a in found if a["key"] == "orders-strangest")


def test_the_summary_says_what_was_learned_and_written() -> None:
    text = markdown(OUTCOME)
    for line in (
        "| rows | 1,234 |",
        "| PCA of the same width | 0.8500 (+0.0500) |",
        "| gate | passed |",
        "| table | `/features/current` (version 2) |",
    ):
        assert line in text
    assert "unchanged: nothing to score" in markdown(replace(OUTCOME, changed=False))


def test_stages_that_did_not_run_have_no_line() -> None:
    text = markdown(Outcome("orders", "3"))
    assert "| model | orders version 3 |" in text
    assert not any(f"| {name} |" in text for name in ("rows", "gate", "table", "report", "held-out R²"))


def test_a_gate_that_judged_nothing_says_why() -> None:
    unjudged = replace(OUTCOME, gate={"passed": True, "reasons": ["a small table"]})
    assert "| gate | passed, not judged: a small table |" in markdown(unjudged)


def test_a_refusal_stands_out_and_no_text_breaks_the_table() -> None:
    refused = replace(OUTCOME, gate={"passed": False, "reasons": ["a|b\nc", "d"]})
    assert "| gate | REFUSED: a\\|b c; d |" in markdown(refused)
