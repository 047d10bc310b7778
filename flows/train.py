"""The flow `train`. On this machine: `python -m flows.train JOB`."""

from __future__ import annotations

from prefect import flow

from aemodel import pipeline as steps
from aemodel.config import Job
from aemodel.pipeline import Outcome
from flows.running import command, run_as_flow


@flow(name="aemodel-train", flow_run_name="{job.name}", persist_result=False)
def train(job: Job, work_dir: str | None = None) -> Outcome:
    """Train, evaluate and register a version; promote it if the gate lets it pass."""
    return run_as_flow(steps.run_train, job, work_dir)


if __name__ == "__main__":
    command(train)
