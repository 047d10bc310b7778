from __future__ import annotations

import copy

import pytest
import torch

from aemodel.config import Job, ModelJob, TrainingJob
from aemodel.dense import ONEDNN
from aemodel.learner import Learner, Teacher
from aemodel.model import Batch, build
from aemodel.prepared import Prepared
from aemodel.schedule import schedule_for


@pytest.mark.skipif(not ONEDNN, reason="this torch was built without oneDNN")
def test_a_teacher_s_gradient_is_added_to_one_that_is_written_out(mixed_prepared: Prepared, mixed_job: Job) -> None:
    training, layout = TrainingJob(max_epochs=1, batch_size=32), mixed_prepared.transform.layout
    batch = Batch.of(mixed_prepared.transform.apply_all(mixed_prepared.held_out))
    found = []
    for written_out in (True, False):
        torch.manual_seed(0)
        job = ModelJob(preset="plain", latent_dim=4, hidden=[8])
        model = build(job, layout, mixed_prepared.pca)
        reference = model.encode(batch).detach() + 1
        teacher = Teacher(copy.deepcopy(model), reference.var(dim=0), batch, reference)
        learner = Learner(model, layout, job, schedule_for(training, 32, 9), training, teacher)
        learner.bring_teacher()
        if not written_out:
            learner._descent = learner._exact_loss
            learner.compute_in(learner.arithmetic)
        total = learner.step(learner.loss, batch, 3)
        before = [weight.grad is not None for weight in model.parameters()]
        assert all(before) if written_out else not any(before)
        total.backward()
        found.append([total.detach(), *(weight.grad for weight in model.parameters())])
    for mine, autograds in zip(*found, strict=True):
        torch.testing.assert_close(mine, autograds, rtol=1e-4, atol=1e-5)
