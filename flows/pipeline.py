"""The flow `pipeline`. On this machine: `python -m flows.pipeline JOB`."""

from __future__ import annotations

from prefect import flow

from aemodel import pipeline as steps
from aemodel.config import Job
from aemodel.pipeline import Outcome
from flows.running import command, run_as_flow


@flow(name="aemodel-pipeline", flow_run_name="{job.name}", persist_result=False)
def pipeline(job: Job, work_dir: str | None = None) -> Outcome:
    """Train, evaluate, register, score and publish: the whole job."""
    return run_as_flow(steps.run, job, work_dir)


if __name__ == "__main__":
    command(pipeline)
