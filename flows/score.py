"""The flow `score`. On this machine: `python -m flows.score JOB`."""

from __future__ import annotations

from prefect import flow

from aemodel import pipeline as steps
from aemodel.config import Job
from aemodel.pipeline import Outcome
from flows.running import command, run_as_flow


@flow(name="aemodel-score", flow_run_name="{job.name}", persist_result=False)
def score(job: Job, work_dir: str | None = None) -> Outcome:
    """Score the dataset with the version that the job's alias names, and publish the table."""
    return run_as_flow(steps.run_score, job, work_dir)


if __name__ == "__main__":
    command(score)
