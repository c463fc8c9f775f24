"""All of params.yaml, with the sections of what is trained, how, and what becomes of it; and reading it."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from pipeline.config.data import Augment, Ingest, Split, Validate
from pipeline.config.recipes import RECIPES
from pipeline.config.section import Above0, AtLeast0, Count, OpenShare, Positive, Section, Seed, Share, architectures
from pipeline.errors import UserError

PARAMS = Path("params.yaml")
BelowOne = Annotated[float, Field(ge=0, lt=1)]
# Names become paths, names of runs and words of a shell's command
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Train(Section):
    """The recipe: the defaults of every model; an entry of `models` may override any of these keys."""

    recipe: Literal[tuple(RECIPES)] = "own"  # type: ignore[valid-type]  # the choices are a table's
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
    """That share each batch of `train`, one a GPU; more than 1 run under torchrun."""

    @model_validator(mode="after")
    def _some_images_a_process(self) -> Self:
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
    architecture: Literal[tuple(architectures())]  # type: ignore[valid-type]  # the choices are files
    options: dict[str, Any] = {}

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Ensemble(Section):
    """An entry of `ensembles`: the mean of the probabilities of `members`, names of `models`."""

    members: Annotated[list[str], Field(min_length=2)]


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    tolerance: Above0 = 1e-4
    """Largest difference of a probability between ONNX Runtime and torch."""


class Quantize(Section):
    calibration_images: Positive = 512
    """Of the training split."""


class Evaluate(Section):
    calibration_bins: Positive = 15
    """Of the calibration diagram and the expected calibration error."""
    mistakes: Positive = 24
    """The most confident ones, which are shown."""


class Audit(Section):
    shown: Positive = 48
    """Suspected label errors in the report."""


class Benchmark(Section):
    batch_sizes: Annotated[list[Positive], Field(min_length=1)] = [1, 64]
    rounds: Positive = 30
    """Over all variants, interleaved; the median is reported."""
    threads: Positive = 1


class Registry(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")] = "image-classifier"
    variants: Annotated[list[Literal["fp32", "pruned", "int8", "pruned_int8"]], Field(min_length=1)] = ["fp32"]
    """What may become challenger. The first two are within export.tolerance of a torch network."""
    min_accuracy: Share = 0.5
    """On the validation split. A candidate over one of these budgets is passed by."""
    max_size_mb: Above0 = 100.0
    max_latency_ms: Above0 = 100.0
    """Median at batch 1, on the machine of `benchmark` and again where it is promoted."""
    improve: Literal["accuracy", "latency", "size"] = "accuracy"
    """What a challenger must do better than the champion, with evidence."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance that a challenger that is no better is promoted, over all promotions on one test split."""
    margin: OpenShare = 0.01
    """Accuracy that the challenger may surely not lose, whatever it improves."""
    factor: Annotated[float, Field(gt=1)] = 1.2
    """How many times as fast or as small, where latency or size is to improve."""
    min_recall: Share = 0.0
    """Of every class, on the test split."""
    max_recall_drop: OpenShare = 0.05
    """Recall that no class may surely lose."""
    max_calibration_error: Share = 0.2
    """Expected calibration error on the test split."""


class Params(Section):
    """Every knob, one section a stage. `dvc repro` reruns only what a change concerns. Written by `python -m pipeline
    init`; a wrong key or value stops with a sentence that names it."""

    experiment: str
    """Experiment in MLflow that the runs go to."""
    ingest: Ingest
    validate_: Validate = Field(alias="validate")
    split: Split
    augment: Augment
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    """The models that are compared: a name, an architecture (a file of pipeline/networks/architectures/), and any key
    of `train` that should differ. Two entries may share an architecture. An architecture's file says which `options` it
    takes, e.g. {architecture: torchvision_model, options: {name: resnet18}, epochs: 5}"""
    ensembles: dict[Name, Ensemble]
    """Means of the probabilities of some of the models, e.g. {both: {members: [simple_cnn, modern_cnn]}}"""
    train: Train
    """The recipe of all models; the best epoch on the validation split is kept."""
    prune: Prune
    export: Export
    quantize: Quantize
    evaluate: Evaluate
    audit: Audit
    benchmark: Benchmark
    registry: Registry

    @model_validator(mode="after")
    def _models_hold_together(self) -> Self:
        for name, model in self.models.items():
            self.recipe(name)
            if model.options:  # by name: networks are built on this package, and import torch, which takes seconds
                networks = import_module("pipeline.networks.architectures")
                networks.checked(model.architecture, model.options, f"models.{name}.")
        for name, ensemble in self.ensembles.items():
            if name in self.models:
                raise UserError(f"ensembles.{name}: a model has that name already")
            unknown = [member for member in ensemble.members if member not in self.models]
            if unknown:
                raise UserError(f"ensembles.{name}.members: there is no model {unknown[0]!r} in `models`")
            if len(set(ensemble.members)) < len(ensemble.members):
                raise UserError(f"ensembles.{name}.members: a model is named twice: name each once")
        return self

    @property
    def names(self) -> list[str]:
        """The names of what is shipped and compared: models and ensembles."""
        return [*self.models, *self.ensembles]

    def weights_stage(self, name: str) -> str:
        """The stage that makes the weights of a model or of an ensemble."""
        return "ensemble" if name in self.ensembles else "train"

    def device(self, name: str) -> str:
        """Where the networks of a model or an ensemble run: `train.device`, or the model's own."""
        own = self.models[name].overrides if name in self.models else {}
        return str(own.get("device", self.train.device))

    def recipe(self, model: str) -> Train:
        """The recipe of one model: `train`, overridden by the named recipe, if any, and by the model's own keys."""
        if model not in self.models:
            raise UserError(f"params.yaml has no model {model!r}; it has: {', '.join(self.models)}")
        own = self.models[model].overrides
        named = RECIPES.get(str(own.get("recipe", self.train.recipe)), {})  # a name that is none is refused by `Train`
        return Train.checked({**self.train.model_dump(), **named, **own}, f"models.{model}.")


def load(path: Path = PARAMS) -> Params:
    """Read and check params.yaml. Raises UserError with one sentence that names the key and the fix."""
    try:
        # YAML 1.2, as DVC reads it: 1e-3 is a number
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: `python -m pipeline init --dataset digits` writes one") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not UTF-8: save the file as UTF-8, or write that line again") from None
    except DuplicateKeyError as error:
        key = str(error.problem).partition(" with value")[0].removeprefix("found duplicate key ")
        raise UserError(f"{path}: line {error.problem_mark.line + 1}: {key} stands twice: keep one") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return Params.checked(content or {}, f"{path}: ")
