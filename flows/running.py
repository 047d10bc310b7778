"""What the flows share: the environment laid over the job, steps as tasks, artifacts, a refused gate as a failure."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aemodel.config import Job
from aemodel.console import end
from aemodel.errors import GateRefused
from aemodel.job_file import load_job, parse_job
from aemodel.pipeline import Outcome, work_folder
from flows.artifacts import show
from flows.tasks import as_task

Whole = Callable[..., Outcome]


class FlowRefused(GateRefused):
    """Fails the flow run, and takes what the run did to whoever called the flow."""

    outcome: Outcome


def run_as_flow(whole: Whole, job: Job, work_dir: str | None) -> Outcome:
    """Run `whole` (of `aemodel.pipeline`) with every step as a task. Raises FlowRefused after all else is done."""
    # Parameters of a deployment are stored by the server, so secrets come from the environment of the worker.
    job = parse_job(job.model_dump(mode="json", exclude_unset=True), "the flow's job", os.environ)
    outcome = whole(job, work_folder(work_dir), as_task)
    show(outcome)
    if outcome.refused:
        assert outcome.gate
        refused = FlowRefused(
            f"the gate refused version {outcome.model_version} of {outcome.model}: {'; '.join(outcome.gate['reasons'])}"
        )
        refused.outcome = outcome
        raise refused
    return outcome


def outcome_of(flow: Callable[..., Outcome], job: Job, work_dir: str | None = None) -> Outcome:
    """Run a flow to its outcome, which a flow run that the gate made fail has as well."""
    try:
        return flow(job, work_dir)
    except FlowRefused as refused:
        return refused.outcome


def stop_in_order() -> None:
    """Make SIGTERM unwind as Ctrl-C does, so that Prefect's embedded server is ended too, and no process stays."""

    def stop(signum: int, _: Any) -> None:
        raise KeyboardInterrupt(f"signal {signum}")

    signal.signal(signal.SIGTERM, stop)


def command(flow: Callable[..., Any]) -> None:
    """`python -m flows.<name> JOB`: the flow once, here, under Prefect's embedded server or the one configured."""
    parser = argparse.ArgumentParser(description=flow.__doc__)
    parser.add_argument("job", metavar="JOB", type=Path, help="the job file (YAML)")
    parser.add_argument("--work-dir", help="where everything but the output table is kept (.aemodel)")
    parser.add_argument("--json", action="store_true", help="end with the result as one JSON object on standard output")
    arguments = parser.parse_args()
    stop_in_order()
    end(lambda: outcome_of(flow, load_job(arguments.job), arguments.work_dir), arguments.json)
