"""The sections that say what is trained and how: models, ensembles, train, prune."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.config.section import OpenShare, Positive, Section, Seed
from pipeline.errors import UserError

Rate = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]


class Train(Section):
    """The recipe: the defaults of every model; an entry of `models` may override any of these keys."""

    # own: the keys below. reference: the plain recipe of the comparison (recipes.py) replaces the keys that it holds.
    recipe: Literal["own", "reference"] = "own"
    epochs: Positive = 12
    batch_size: Annotated[int, Field(ge=2)] = 128
    # sgd (with Nesterov momentum) | adam | adamw
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    # The highest learning rate of the schedule.
    learning_rate: Rate = 0.2
    # one_cycle | cosine | constant: over all of the training. step: times `factor` every `step_epochs` epochs.
    # plateau: times `factor` after `step_epochs` epochs without a lower validation loss.
    schedule: Literal["one_cycle", "cosine", "constant", "step", "plateau"] = "one_cycle"
    # Share of the training during which the learning rate climbs.
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.25
    step_epochs: Positive = 7
    factor: OpenShare = 0.1
    # Of sgd; of adam and adamw it is beta1.
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: AtLeastZero = 5e-4
    # false: none on norms and biases.
    decay_all: bool = False
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    # Norm that the gradient is clipped to; 0 = never.
    clip_gradient: AtLeastZero = 1.0
    # Decay per step of the moving average of the weights, which is what is validated and kept; 0 = none.
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Stop after this many epochs without a better validation accuracy; 0 = never.
    patience: Annotated[int, Field(ge=0)] = 0
    # Minutes of training after which it ends, its schedule run to the end by then; 0 = no limit. Weights then depend
    # on the machine's speed.
    time_limit: AtLeastZero = 0.0
    # Train on about this many images, stratified, at least one a class; 0 = all of them.
    limit: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 0
    # Trainings from `seed` on, each with the next seed; the best on the validation split is kept, all are compared.
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    # auto | cpu | cuda
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: bfloat16 where a one-second probe finds it faster; else float32 or bfloat16 as told.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # CPU threads; 0 = OMP_NUM_THREADS or all the cores. The same number gives the same weights.
    threads: Annotated[int, Field(ge=0)] = 0
    # Where the images are while training: resident on the device, streamed from disk, auto = resident if they fit.
    images: Literal["auto", "resident", "streamed"] = "auto"
    # Images of a batch that go through the network at once, at most, and that batch norm normalizes over; 0 = 32 on a
    # CPU, however many cores it has, and the whole batch on a GPU.
    micro_batch: Annotated[int, Field(ge=0)] = 0
    # true: torch.compile, which costs a minute at the start and needs a C++ compiler.
    compile: bool = False
    # Seconds between checkpoints to resume from: what a kill loses at most.
    checkpoint_seconds: AtLeastZero = 30.0
    # Processes that share each batch, one a GPU: more than 1 starts them through torchrun.
    processes: Positive = 1

    @model_validator(mode="after")
    def _some_images_a_process(self) -> Train:
        if self.batch_size < 2 * self.processes:
            raise UserError(
                f"batch_size {self.batch_size} leaves less than 2 images to each of {self.processes} processes"
            )
        return self


class Prune(Section):
    # Share of the channels that is removed from every prunable layer.
    channels: OpenShare = 0.5
    # What is left of a layer is a multiple of this: odd widths are slow.
    round_to: Positive = 8
    # Fine-tuning after the cut, with the model's own recipe but for the epochs, and this many times its learning rate.
    epochs: Positive = 6
    learning_rate_factor: Rate = 0.5


class Model(BaseModel):
    """An entry of `models`: an architecture (a file of pipeline/networks/architectures/), its own `options`, and
    overrides of `train`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    architecture: str
    # What the architecture's file calls its options, e.g. the layers of configurable_cnn.
    options: dict[str, Any] = {}

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Ensemble(Section):
    """An entry of `ensembles`: the mean of the probabilities of other models."""

    # Names of `models`.
    members: Annotated[list[str], Field(min_length=2)]
