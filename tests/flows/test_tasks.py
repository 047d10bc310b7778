"""Which failures are worth another try."""

from __future__ import annotations

import pytest
from prefect.states import Failed

from aemodel.errors import (
    AemodelError,
    JobError,
    PublishError,
    RegistryError,
    SnapshotError,
    TrackingServerError,
    TrainingDiverged,
    TrainingError,
)
from flows.tasks import TASKS, worth_another_try


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RegistryError("the server is restarting"), True),
        (TrainingError("a rank was lost"), True),
        (PublishError("a file is gone"), True),
        (ConnectionError("reset"), True),
        (TrainingDiverged("nan"), False),
        (JobError("no such key"), False),
        (SnapshotError("no such path"), False),
        (TrackingServerError("no answer"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_what_may_be_over_the_next_time_is_tried_again(error: Exception, again: bool) -> None:
    task = next(iter(TASKS.values()))
    assert worth_another_try(task, None, Failed(data=error)) is again  # type: ignore[arg-type]


def test_every_error_says_whether_it_is_transient() -> None:
    def kinds(kind: type[AemodelError]) -> list[type[AemodelError]]:
        return [kind, *(k for s in kind.__subclasses__() for k in kinds(s))]

    assert all(not kind.transient for kind in kinds(AemodelError) if kind.exit_code == 2)
