"""Learning rates over the course of a training."""

import pytest
import torch

from pipeline.config import Train
from pipeline.training.schedule import share


def test_one_cycle_is_torchs() -> None:
    """The same curve as torch's OneCycleLR, whose steps count from 0 to the last one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1000, pct_start=0.3, cycle_momentum=False)
    recipe = Train(schedule="one_cycle", warmup=0.3)
    for step in range(1000):
        assert share(recipe, step / 1000, []) == pytest.approx(theirs.get_last_lr()[0], abs=0.01)
        optimizer.step()
        theirs.step()


def test_cosine_falls_to_nothing_and_constant_stays() -> None:
    """After their warm-up, which climbs in a straight line."""
    cosine, constant = (Train(schedule=name, warmup=0.1) for name in ("cosine", "constant"))
    assert share(cosine, 0.999, []) < 1e-4 < share(cosine, 0.05, []) < 0.55
    assert share(cosine, 0.55, []) == pytest.approx(0.5)
    assert [share(constant, way, []) for way in (0.1, 0.5, 0.99)] == [1, 1, 1]
    assert share(constant, 0.05, []) == pytest.approx(0.5, abs=0.02)


def test_steps_fall_every_so_many_epochs() -> None:
    """StepLR 7/0.1 over 15 epochs, as the reference recipe has it: 7 epochs, 7 epochs, 1 epoch."""
    recipe = Train(schedule="step", warmup=0.0, epochs=15, step_epochs=7, factor=0.1)
    by_epoch = [share(recipe, epoch / 15, []) for epoch in range(15)]
    assert by_epoch == pytest.approx([1.0] * 7 + [0.1] * 7 + [0.01])


@pytest.mark.parametrize(("losses", "wanted"), [
    ([3.0, 2.0, 1.0], 1), ([3.0, 2.0, 1.0, 1.0], 1),
    ([1.0, 1.0, 1.1, 1.2, 1.0], 0.25), ([1.0, 1.0, 1.1, 0.5, 0.6], 0.5),
])  # fmt: skip
def test_a_plateau_lowers_the_rate(losses: list[float], wanted: float) -> None:
    """After `step_epochs` epochs without a lower validation loss, and again after as many more."""
    assert share(Train(schedule="plateau", warmup=0.0, step_epochs=2, factor=0.5), 0.5, losses) == wanted
