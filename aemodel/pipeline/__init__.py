"""The steps of a run: prepare, train, evaluate and register, report, score, publish.

Each is a function from small references to one. What a step makes lies in a run folder named by what it was made
of (snapshot, job, code), so a step that finds its result there is done, and a run that was killed goes on. The
same steps run from the command line and inside Prefect's tasks.
"""

from aemodel.pipeline.applying import champion_version, publish, score
from aemodel.pipeline.judging import evaluate_and_register
from aemodel.pipeline.learning import prepare_run, train
from aemodel.pipeline.promoting import Promotion, promote, rollback
from aemodel.pipeline.references import (
    PreparedRun,
    PublishedTable,
    RegisteredVersion,
    StagedTable,
    TrainedRun,
    work_folder,
)
from aemodel.pipeline.reporting import write_report
from aemodel.pipeline.run import Outcome, run, run_report, run_score, run_train

__all__ = [
    "Outcome",
    "PreparedRun",
    "Promotion",
    "PublishedTable",
    "RegisteredVersion",
    "StagedTable",
    "TrainedRun",
    "champion_version",
    "evaluate_and_register",
    "prepare_run",
    "promote",
    "publish",
    "rollback",
    "run",
    "run_report",
    "run_score",
    "run_train",
    "score",
    "train",
    "work_folder",
    "write_report",
]
