"""The command line. Exit codes: 0 done, 1 a bug or an outage, 2 bad input, 3 the gate refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from aemodel.config import Job
from aemodel.console import end, guarded, progress
from aemodel.job_file import load_job

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learned feature columns for Parquet tables.",
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).", show_default=False)]
WorkDir = Annotated[
    str | None, typer.Option("--work-dir", help="Where everything but the output table is kept (.aemodel).")
]
AsJson = Annotated[bool, typer.Option("--json", help="End with the result as one JSON object on standard output.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept as a tag of the version.", show_default=False)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show what the workers print.")]


@app.command()
def run(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Train, evaluate, register, score and publish: the whole job, without Prefect."""
    end(lambda: _run(job, work_dir, verbose, "run"), as_json)


@app.command()
def train(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Train, evaluate and register a version; promote it if the gate lets it pass."""
    end(lambda: _run(job, work_dir, verbose, "run_train"), as_json)


@app.command()
def score(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Score the job's dataset with the registered version that its alias names, and publish the table."""
    end(lambda: _run(job, work_dir, verbose, "run_score"), as_json)


@app.command()
def report(job: JobFile, work_dir: WorkDir = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Write the report of the job's run on the present data again, and say where it lies."""
    end(lambda: _run(job, work_dir, verbose, "run_report"), as_json, judges=False)


@app.command()
def preflight(job: JobFile) -> None:
    """Say what a run would meet: row groups, memory, schedule, seconds; from Parquet footers, without reading data."""
    guarded(lambda: _preflight(job))


@app.command()
def promote(
    job: JobFile,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version's number.", show_default=False)],
    reason: Reason,
    work_dir: WorkDir = None,
) -> None:
    """Point the job's alias at a version by hand, whatever the gate said."""
    guarded(lambda: _move(job, work_dir, "promote", version, reason))


@app.command()
def rollback(job: JobFile, reason: Reason, work_dir: WorkDir = None) -> None:
    """Point the job's alias back at the version before; no later run promotes the present one again."""
    guarded(lambda: _move(job, work_dir, "rollback", reason))


def _preflight(job_file: Path) -> None:
    job = load_job(job_file)
    from aemodel import preflight

    found = preflight.look(job, preflight.measured)
    print(preflight.rendered(found))
    preflight.refuse_beyond(job, found.shape)  # as a run would be


def _move(job_file: Path, work_dir: str | None, how: str, *what: str) -> None:
    job = load_job(job_file)
    from aemodel import pipeline

    moved = getattr(pipeline, how)(job, pipeline.work_folder(work_dir), *what)
    before = f", before {moved.before}" if moved.before else ""
    print(f"{moved.model}: {moved.alias} is version {moved.version}{before}; `aemodel score` writes the table with it")


def _run(job_file: Path, work_dir: str | None, verbose: bool, what: str) -> Any:
    job = load_job(job_file)
    with progress(verbose):
        from aemodel import pipeline  # torch and mlflow take seconds to import; a wrong job file need not wait

        function: Callable[[Job, Path], Any] = getattr(pipeline, what)
        return function(job, pipeline.work_folder(work_dir))


if __name__ == "__main__":
    app()
