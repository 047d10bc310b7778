"""The command line. Exit codes: 0 done, 1 a bug or an outage, 2 bad input, 3 the gate refused."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aemodel.config import Job, load_job
from aemodel.errors import AemodelError, GateRefused

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Learned feature columns for Parquet tables."
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).", show_default=False)]
WorkDir = Annotated[str | None, typer.Option("--work-dir", help="Where everything but the output table is kept (.aemodel).")]
AsJson = Annotated[bool, typer.Option("--json", help="End with the result as one JSON object on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show what the workers print.")]


@app.command()
def run(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Train, evaluate, register, score and publish: the whole job, without Prefect."""
    _end(lambda: _run(job, work_dir, verbose, "run"), as_json)


@app.command()
def train(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Train, evaluate and register a version; promote it if the gate lets it pass."""
    _end(lambda: _run(job, work_dir, verbose, "run_train"), as_json)


@app.command()
def score(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Score the job's dataset with the registered version that its alias names, and publish the table."""
    _end(lambda: _run(job, work_dir, verbose, "run_score"), as_json)


@app.command()
def report(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Write the report of the job's run on the present data again, and say where it lies."""
    _end(lambda: _run(job, work_dir, verbose, "run_report"), as_json)


def _run(job_file: Path, work_dir: str | None, verbose: bool, what: str) -> Any:
    job = load_job(job_file)
    with _progress(verbose):
        from aemodel import pipeline  # torch and mlflow take seconds to import; a wrong job file need not wait

        function: Callable[[Job, Path], Any] = getattr(pipeline, what)
        return function(job, pipeline.work_folder(work_dir))


def _end(call: Callable[[], Any], as_json: bool) -> None:
    """Run, print the outcome, and leave with the exit code that says how it ended."""
    try:
        outcome = call()
    except AemodelError as error:
        print(f"aemodel: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("aemodel: stopped; run again to go on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    from aemodel.summary import summary

    Console(stderr=as_json, highlight=False, soft_wrap=True).print(summary(outcome), markup=False)
    if as_json:
        print(json.dumps(outcome.to_json(), allow_nan=False))
    if outcome.refused:
        raise SystemExit(GateRefused.exit_code)


class _progress:
    """A bar on a terminal, plain lines elsewhere; both from the log records that carry training events."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.console = Console(stderr=True)

    def __enter__(self) -> None:
        log = logging.getLogger("aemodel")
        log.setLevel(logging.DEBUG if self.verbose else logging.INFO)
        log.propagate = False
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        if not self.console.is_terminal:
            handler: logging.Handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
            self.bar = None
        else:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeElapsedColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            handler = _BarHandler(self.bar, self.console)
            self.bar.start()
        log.handlers = [handler]

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()


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


if __name__ == "__main__":
    app()
