from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aemodel.console import end, summary
from aemodel.errors import JobError
from aemodel.pipeline import Outcome

OUTCOME = Outcome(
    model="flights",
    model_version="3",
    table="/data/features/current",
    table_version=2,
    rows=1_234,
    changed=True,
    r2=0.9,
    r2_pca=0.85,
    gate={"passed": True, "reasons": []},
    alias="champion",
    seconds={"train": 1.0, "total": 1.0},
    peak_memory_mb=900.0,
    strangest=(
        {
            "error": 12.0,
            "rank": 1.0,
            "reasons": ["delay"],
            "expected": ["12"],
            "cells": [["id", "7"], ["delay", "900"]],
        },
    ),
)


def test_the_summary_tells_rows_gain_gate_version_and_the_strangest_rows() -> None:
    text = summary(OUTCOME)
    for expected in (
        "1,234",
        "0.900",
        "0.850 (+0.050)",
        "passed",
        "version 3, alias champion",
        "delay = 900 (expected 12)",
        "id 7",
    ):
        assert expected in text


def test_a_gate_that_judged_nothing_is_not_said_to_have_passed_alone() -> None:
    unjudged = replace(OUTCOME, gate={"passed": True, "reasons": ["the table is small"]})
    assert "passed, not judged: the table is small" in summary(unjudged)


def test_only_what_judges_ends_with_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    refused = replace(OUTCOME, gate={"passed": False, "reasons": ["too low"]})
    end(lambda: refused, judges=False)
    assert "REFUSED: too low" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        end(lambda: refused)
    assert left.value.code == 3


def test_a_query_orders_by_the_score_only_where_one_is_written() -> None:
    assert "ORDER BY" in summary(OUTCOME) and "ORDER BY" not in summary(replace(OUTCOME, strangest=()))


def test_figures_of_training_rows_are_not_called_those_of_held_out_ones() -> None:
    text = summary(replace(OUTCOME, held_out_is_training=True))
    assert "0.900 on the training rows (too few to hold any out)" in text and "held-out" not in text
    assert "0.900 on held-out rows" in summary(OUTCOME)


def test_the_summary_says_when_nothing_was_to_be_done() -> None:
    assert "unchanged: nothing to score" in summary(replace(OUTCOME, changed=False))


def test_cells_cannot_break_the_summary_s_lines() -> None:
    odd = {"error": 1.0, "rank": 1.0, "reasons": ["a\nb"], "expected": [None], "cells": [["a\nb", "x\x1b[31m\ny"]]}
    lines = summary(replace(OUTCOME, strangest=(odd,))).splitlines()
    assert any("a\\nb" in line and "x\\x1b[31m\\ny" in line for line in lines)


def test_json_is_the_last_line_of_standard_output_and_the_rest_goes_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    end(lambda: OUTCOME, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == 1_234 and out.count("\n") == 1
    assert "1,234" in err


def test_a_user_s_error_is_one_line_with_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Outcome:
        raise JobError("job.yaml: 'dataset.uri' is missing")

    with pytest.raises(SystemExit) as stopped:
        end(fail)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "aemodel: job.yaml: 'dataset.uri' is missing\n"


def test_a_refused_gate_ends_with_three_after_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    refused = replace(OUTCOME, gate={"passed": False, "reasons": ["R² 0.1 is too low"]})
    with pytest.raises(SystemExit) as stopped:
        end(lambda: refused)
    assert stopped.value.code == 3
    assert "REFUSED: R² 0.1 is too low" in capsys.readouterr().out


def test_a_bug_keeps_its_traceback() -> None:
    def fail() -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        end(fail)
