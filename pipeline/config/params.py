"""All of params.yaml, with the sections of what becomes of a trained network; and reading it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config.data import Augment, Ingest, Split, Validate
from pipeline.config.models import Ensemble, Model, Prune, Train
from pipeline.config.recipes import RECIPES
from pipeline.config.section import Above0, Positive, Section, Share, section
from pipeline.errors import UserError

PARAMS = Path("params.yaml")
# Names become paths, names of runs and words of a shell's command
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


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
    """Median at batch 1 on the machine of `benchmark`."""


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
    def _models_hold_together(self) -> Params:
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
        return self

    @property
    def everything(self) -> list[str]:
        """The names of what is shipped and compared: models and ensembles."""
        return [*self.models, *self.ensembles]

    def maker(self, name: str) -> str:
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
        named = RECIPES.get(own.get("recipe", self.train.recipe), {})  # a name that is none is refused by `Train`
        return section(Train, {**self.train.model_dump(), **named, **own}, f"models.{model}.")


def load(path: Path = PARAMS) -> Params:
    """Read and check params.yaml. Raises UserError with one sentence that names the key and the fix."""
    try:
        # YAML 1.2, as DVC reads it: 1e-3 is a number
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: `python -m pipeline init --dataset digits` writes one") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not UTF-8: save the file as UTF-8, or write that line anew") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return section(Params, content or {}, f"{path}: ")
