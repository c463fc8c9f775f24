"""The sections that say what is trained and how: models, ensembles, train, prune."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline.config.recipes import RECIPES
from pipeline.config.section import Above0, AtLeast0, Count, OpenShare, Positive, Section, Seed, architectures, one_of
from pipeline.errors import UserError

BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Train(Section):
    """The recipe: the defaults of every model; an entry of `models` may override any of these keys."""

    recipe: one_of(RECIPES) = "own"  # type: ignore[valid-type]
    """own: these keys. reference: Adam and StepLR; its values (pipeline/config/recipes.py) replace these."""
    epochs: Positive = 12
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd has Nesterov momentum."""
    learning_rate: Above0 = 0.1
    """The highest of the schedule."""
    schedule: Literal["one_cycle", "cosine", "constant", "step", "plateau"] = "one_cycle"
    """step: times `factor` every `step_epochs` epochs. plateau: times `factor` after so many without a lower validation
    loss. The others run over the whole training."""
    warmup: BelowOne = 0.25
    """Share of the training during which the learning rate climbs."""
    step_epochs: Positive = 7
    factor: OpenShare = 0.1
    momentum: BelowOne = 0.9
    """Of sgd; of adam and adamw it is beta1."""
    weight_decay: AtLeast0 = 5e-4
    decay_all: bool = False
    """true: weight decay on norms and biases too."""
    label_smoothing: BelowOne = 0.1
    clip_gradient: AtLeast0 = 1.0
    """Largest norm; 0 = never."""
    ema: BelowOne = 0.0
    """Decay per step of the moving average of the weights, e.g. 0.999; 0 = none."""
    patience: Count = 0
    """Stop after so many epochs without a better validation accuracy; 0 = never."""
    time_limit: AtLeast0 = 0.0
    """Minutes; the schedule is run to its end by then; 0 = none. Weights then depend on the speed."""
    limit: Count = 0
    """About this many training images, stratified, at least one a class; 0 = all."""
    seed: Seed = 0
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """Trainings from `seed` on: the best is kept, mean and 95 % interval are reported."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where a probe of a second finds it faster."""
    threads: Count = 0
    """CPU threads; 0 = OMP_NUM_THREADS or all cores. The same number gives the same weights."""
    images: Literal["auto", "resident", "streamed"] = "auto"
    """resident: in memory. streamed: from disk. auto: resident if they fit."""
    micro_batch: Count = 0
    """Images at once, over which batch norm normalizes; 0 = 32 on a CPU, the batch on a GPU."""
    compile: bool = False
    """torch.compile: a minute at the start, needs a C++ compiler."""
    checkpoint_seconds: AtLeast0 = 30.0
    """What a kill loses at most; `dvc repro` goes on from there."""
    processes: Positive = 1
    """That share each batch, one a GPU; more than 1 run under torchrun."""

    @model_validator(mode="after")
    def _some_images_a_process(self) -> Train:
        if self.batch_size < 2 * self.processes:
            raise UserError(f"batch_size is {self.batch_size}: {self.processes} processes need at least 2 images each")
        return self


class Prune(Section):
    channels: OpenShare = 0.5
    """Share that is removed from every layer but the last."""
    round_to: Positive = 8
    """Widths are multiples of this: odd ones are slow."""
    epochs: Positive = 6
    """Fine-tuning, by the model's own recipe."""
    learning_rate_factor: Above0 = 0.5
    """Of the model's own learning rate."""


class Model(Section):
    """An entry of `models`: an architecture, what its file calls its `Options`, and overrides of `train`."""

    model_config = ConfigDict(extra="allow")
    architecture: one_of(architectures())  # type: ignore[valid-type]
    options: dict[str, Any] = {}

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Ensemble(Section):
    """An entry of `ensembles`: the mean of the probabilities of `members`, names of `models`."""

    members: Annotated[list[str], Field(min_length=2)]
