"""Each step as a Prefect task: which are tried again, which results are cached, what is told on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff

from aemodel import pipeline
from aemodel.errors import AemodelError
from aemodel.files import digest
from aemodel.pipeline import PreparedRun

#: Seconds before the first retry; they double from one to the next.
BACKOFF_SECONDS = 10


def worth_another_try(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """An outage or a lost rank may be over the next time; wrong input, a refused gate and a bug will not."""
    try:
        state.result()
    except AemodelError as error:
        return error.transient
    except (ConnectionError, TimeoutError):
        return True
    except Exception:
        return False
    return False


def _training_key(_: TaskRunContext, parameters: dict[str, Any]) -> str:
    """The run's key is a digest of snapshot, job and code; the result lies in its folder, so another is another one."""
    run: PreparedRun = parameters["run"]
    return f"aemodel-train-{digest([run.folder, run.key])}"


def _as_task(step: Callable[..., Any], name: str, retries: int, cache: CachePolicy = NO_CACHE) -> Task[..., Any]:
    return task(
        name=name,
        retries=retries,
        retry_delay_seconds=exponential_backoff(BACKOFF_SECONDS),
        retry_jitter_factor=0.2,
        retry_condition_fn=worth_another_try,
        cache_policy=cache,
        persist_result=True,
        result_serializer="json",
    )(step)


#: Only training is cached: what it gives follows from snapshot, job and code alone. The others depend on what stands
#: in the registry and in the table as well; they find their finished work by themselves.
TASKS: dict[Callable[..., Any], Task[..., Any]] = {
    pipeline.prepare_run: _as_task(pipeline.prepare_run, "prepare", 2),
    pipeline.train: _as_task(pipeline.train, "train", 2, CachePolicy.from_cache_key_fn(_training_key)),
    pipeline.evaluate_and_register: _as_task(pipeline.evaluate_and_register, "evaluate and register", 3),
    pipeline.write_report: _as_task(pipeline.write_report, "report", 1),
    pipeline.score: _as_task(pipeline.score, "score", 2),
    pipeline.publish: _as_task(pipeline.publish, "publish", 3),
}


def as_task(step: Callable[..., Any], *references: Any) -> Any:
    """Run a step as its task."""
    chosen = TASKS[step]
    if step is pipeline.train and not (Path(references[0].folder) / "result.json").exists():
        chosen = chosen.with_options(refresh_cache=True)  # the cache may outlive the work folder
    return chosen(*references)


class _WithoutTraceback(logging.Filter):
    """Prefect logs every exception of a task with its traceback; an error meant for a person is one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], AemodelError):
            record.exc_info = None
        return True


for _name in ("prefect.task_runs", "prefect.flow_runs"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())
