"""What a person sees of a run: progress while it lasts, a summary at its end, one line when it cannot go on."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aemodel.errors import AemodelError, GateRefused, plain

if TYPE_CHECKING:
    from aemodel.pipeline import Outcome


def end(call: Callable[[], Outcome], as_json: bool = False, judges: bool = True) -> None:
    """Call what gives an Outcome, print its summary, and leave with the exit code that says how it ended.

    What `judges` nothing does not end with a refusal, whatever was refused before.
    """
    done: list[Outcome] = []
    guarded(lambda: done.append(call()))
    outcome = done[0]
    Console(stderr=as_json, highlight=False, soft_wrap=True).print(summary(outcome), markup=False)
    if as_json:
        print(json.dumps(outcome.to_json(), allow_nan=False))
    if judges and outcome.refused:
        raise SystemExit(GateRefused.exit_code)


def guarded(call: Callable[[], object]) -> None:
    """Call, and turn an error meant for a person into one line and its exit code."""
    try:
        call()
    except AemodelError as error:
        print(f"aemodel: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("aemodel: stopped; run again to go on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def summary(outcome: Outcome) -> str:
    """A short text: the table, the figures against PCA, the gate, the strangest rows, how to open it."""
    lines = [""]
    if outcome.rows is not None:
        state = "" if outcome.changed else "  (unchanged: nothing to score)"
        lines.append(f"  rows      {outcome.rows:,} in, {outcome.rows:,} out{state}")
    if outcome.r2 is not None and outcome.r2_pca is not None:
        rows = "the training rows (too few to hold any out)" if outcome.held_out_is_training else "held-out rows"
        lines.append(
            f"  R²        {outcome.r2:.3f} on {rows}; PCA of the same width {outcome.r2_pca:.3f} "
            f"({outcome.r2 - outcome.r2_pca:+.3f})"
        )
    if outcome.verdict:
        lines.append(f"  gate      {outcome.verdict}")
    alias = f", alias {outcome.alias}" if outcome.alias else ""
    lines.append(f"  model     {outcome.model} version {outcome.model_version}{alias}")
    if outcome.strangest:
        lines += ["", "  the strangest rows"]
        lines += [_strange(i + 1, row) for i, row in enumerate(outcome.strangest)]
    lines += [
        "",
        f"  took      {outcome.seconds['total']:.0f} s, at most {outcome.peak_memory_mb:,.0f} MB of private memory",
    ]
    if outcome.report:
        lines += [f"  report    {outcome.report}"]
    if outcome.table:
        order = f"ORDER BY {outcome.prefix}error DESC " if outcome.strangest else ""
        lines += [
            f"  table     {outcome.table} (version {outcome.table_version})",
            f"            duckdb:  SELECT * FROM '{outcome.table}/**/*.parquet' {order}LIMIT 10",
            f"            pandas:  pd.read_parquet('{outcome.table}')",
        ]
    return "\n".join([*lines, ""])


def _strange(place: int, row: dict[str, Any]) -> str:
    """One row: its score, then the reasons with their cells, then some others that tell which row it is."""
    cells = {name: plain(text, 40) for name, text in row["cells"]}
    reasons = ", ".join(_reason(n, cells.get(n, "?"), e) for n, e in zip(row["reasons"], row["expected"], strict=True))
    others = [f"{plain(n, 30)} {v}" for n, v in cells.items() if n not in row["reasons"] and v != "missing"][:8]
    which = f"\n     ({', '.join(others)})" if others else ""
    return f"  {place}. score {row['error']:,.1f}: {reasons}{which}"


def _reason(column: str, cell: str, expected: str | None) -> str:
    instead = f" (expected {plain(expected, 40)})" if expected is not None else ""
    return f"{plain(column, 30)} = {cell}{instead}"


class progress:
    """A bar on a terminal, plain lines elsewhere; both from the log records that carry training events."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.console = Console(stderr=True)

    def __enter__(self) -> None:
        log = logging.getLogger("aemodel")
        self.before = log.level, log.propagate, log.handlers
        log.setLevel(logging.DEBUG if self.verbose else logging.INFO)
        log.propagate = False
        if not self.console.is_terminal:
            handler: logging.Handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
            self.bar = None
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            handler = _BarHandler(self.bar, self.console)
            self.bar.start()
        log.handlers = [handler]

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
        log = logging.getLogger("aemodel")
        level, log.propagate, log.handlers = self.before
        log.setLevel(level)  # not by itself: loggers below have kept what it was


class _BarHandler(RichHandler):
    """Moves the bar for training events and prints the other records above it."""

    def __init__(self, bar: Progress, console: Console) -> None:
        super().__init__(console=console, show_path=False, show_level=False, markup=False)
        self.bar = bar
        self.task = bar.add_task("training", total=None, visible=False, figures="")

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event is None:
            super().emit(record)
            return
        figures = f"epoch {event['epoch'] + 1}  step {event['step']}/{event['total_steps']}  loss {event['loss']:.4f}"
        self.bar.update(self.task, completed=event["step"], total=event["total_steps"], visible=True, figures=figures)
