"""`params.yaml` as frozen, typed sections: an unknown key, a wrong type or an impossible value dies here.

Each section of the file is one class below; the comment over a field is its manual. A stage receives only the
sections that `dvc.yaml` lists for it, so that DVC knows exactly what reruns it.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.datasets import sources

Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Size = Annotated[int, Field(ge=8, le=1024)]


CheckName = Literal[
    "known_classes", "class_names", "class_images", "readable", "one_label", "near_one_label", "leakage", "copies",
    "near_duplicates", "balance", "side", "aspect", "size", "brightness", "contrast", "brightness_outlier",
    "sharpness_outlier", "colour", "drift",
]  # fmt: skip


class Section(BaseModel):
    """One section of params.yaml. Strict: `"3"` is no number and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Ingest(Section):
    # What kind of source `root` is: see pipeline/datasets/
    source: str
    # Where the source's files are; a change in there reruns `ingest`.
    root: str
    # Of the source `csv`: the table's name inside `root`.
    labels: str = "labels.csv"
    # Height and width, in pixels, that every image is brought to.
    image_size: Size = 32
    # crop: fill the square, cut the longer side. pad: show all, fill with `background`. stretch: ignore the aspect.
    resize: Literal["crop", "pad", "stretch"] = "crop"
    # What shows through transparent pixels and in padding: red, green, blue.
    background: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)] = [
        255,
        255,
        255,
    ]
    # true: an unreadable image stops the run. false: it is set aside in quarantine.csv and the run goes on.
    strict: bool = False
    # Processes that decode; 0 = one a core.
    workers: Annotated[int, Field(ge=0)] = 0


class Validate(Section):
    # Checks whose failure stops the pipeline; all others warn.
    critical: list[CheckName] = ["known_classes", "class_images", "readable", "one_label"]
    # The classes that there must be, no more and no fewer; [] = whatever is found.
    classes: list[str] = []
    # Every class needs at least this many images, or it cannot be split three ways.
    min_images_per_class: Annotated[int, Field(ge=3)] = 10
    # Share of the files that ingest could not read.
    max_quarantined: Share = 0.01
    # The largest class may be this many times the smallest.
    max_imbalance: Annotated[float, Field(ge=1)] = 10.0
    # Of the files themselves: shorter side in pixels, longer over shorter side, and how many times larger or smaller
    # than the median image (in side length).
    min_side: Positive = 8
    max_aspect: Annotated[float, Field(ge=1)] = 4.0
    max_size_ratio: Annotated[float, Field(ge=1)] = 5.0
    # Mean brightness (0 black to 1 white) and contrast (standard deviation, 0 to 0.5).
    brightness: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.02, 0.98]
    min_contrast: Share = 0.01
    # How far from the rest an image's brightness and sharpness may lie, in robust standard deviations.
    max_outlier: Annotated[float, Field(gt=0)] = 5.0
    # Brightness, contrast, outliers and colour tolerate this share of exceptions before they fail.
    tolerated: Share = 0.01
    # Two images are near-duplicates if at most this many of the 64 bits of their perceptual hashes differ ...
    max_hash_distance: Annotated[int, Field(ge=0, le=16)] = 10
    # ... and the correlation of their grey values is at least this; 1 = exact copies only.
    min_similarity: Annotated[float, Field(gt=0.5, le=1)] = 0.9
    # Population stability index against the accepted data set, for each measure and for the classes.
    max_drift: Annotated[float, Field(gt=0)] = 0.25

    @model_validator(mode="after")
    def _range_is_one(self) -> Validate:
        if self.brightness[0] >= self.brightness[1]:
            raise ValueError(f"brightness is {self.brightness}: write the lower bound first")
        return self


class Split(Section):
    # Shares of the images; what is left after these two is for training.
    validation: OpenShare = 0.1
    test: OpenShare = 0.1
    # true: where the source has a test (or val) split of its own, that one is used and only the rest is cut.
    keep_source_splits: bool = True
    # Images that belong together (a patient, a video) stay on one side: a regular expression on the path, whose first
    # group names what they share, e.g. "(patient[0-9]+)". A `group` column of a CSV source counts without it.
    group_pattern: str = ""
    # 0, or the number of folds of a cross-validation: fold number `fold` validates, the others train.
    folds: Annotated[int, Field(ge=0, le=50)] = 0
    fold: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 0

    @model_validator(mode="after")
    def _leaves_training_images(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test is {self.validation + self.test:g} and leaves nothing to train on")
        return self

    @model_validator(mode="after")
    def _fold_exists(self) -> Split:
        if self.folds == 1 or self.fold >= max(1, self.folds):
            raise ValueError(f"fold {self.fold} of {self.folds}: folds is 0 or at least 2, and fold runs from 0")
        return self

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> Split:
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise ValueError(f"group_pattern is no regular expression ({error})") from None
        if self.group_pattern and not groups:
            raise ValueError(f"group_pattern {self.group_pattern!r} has no group: put brackets round what is shared")
        return self


class Augment(Section):
    # none | light | standard | strong | digits: see pipeline/training/policy.py
    policy: str = "standard"
    # Any knob of the policy by itself, e.g. {horizontal_flip: false, rotation: 10}
    overrides: dict[str, bool | int | float] = {}
    # none | sampler (draw rare classes more often) | duplicates (list their images several times) | loss_weights
    # (weigh them more in the loss) | logit_adjustment (train against the classes' frequencies)
    balance: Literal["none", "sampler", "duplicates", "loss_weights", "logit_adjustment"] = "none"
    # Seed of the preview picture, and of the choice of duplicates.
    seed: Seed = 0


class Train(Section):
    """The recipe: the defaults of every model; an entry of `models` may override any of these keys."""

    epochs: Positive = 12
    batch_size: Annotated[int, Field(ge=2)] = 128
    # Peak learning rate of the one-cycle schedule.
    learning_rate: Annotated[float, Field(gt=0)] = 0.2
    # Share of the steps that warm up.
    warmup: OpenShare = 0.25
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    # None on norms and biases.
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    # Norm that the gradient is clipped to; 0 = never.
    clip_gradient: Annotated[float, Field(ge=0)] = 1.0
    # Train on about this many images, stratified, at least one a class; 0 = all of them.
    limit: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 0
    # auto | cpu | cuda
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: bfloat16 where a one-second probe finds it faster; else float32 or bfloat16 as told.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # CPU threads; 0 = OMP_NUM_THREADS or all the cores. The same number gives the same weights.
    threads: Annotated[int, Field(ge=0)] = 0


class Prune(Section):
    # Share of the channels that is removed from every prunable layer.
    channels: OpenShare = 0.5
    # What is left of a layer is a multiple of this: odd widths are slow.
    round_to: Positive = 8
    # Fine-tuning after the cut, with the model's own recipe but for these two.
    epochs: Positive = 6
    learning_rate: Annotated[float, Field(gt=0)] = 0.05


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    # The export fails when a probability of the ONNX file differs by more than this from torch.
    tolerance: Annotated[float, Field(gt=0)] = 1e-4


class Quantize(Section):
    # Training images that calibrate the ranges of the activations.
    calibration_images: Positive = 512


class Evaluate(Section):
    # Bins of the calibration diagram and of the expected calibration error.
    calibration_bins: Positive = 15
    # Most confident mistakes that are shown.
    mistakes: Positive = 24


class Audit(Section):
    # Suspected label errors that are shown in the report.
    shown: Positive = 48


class Benchmark(Section):
    batch_sizes: Annotated[list[Positive], Field(min_length=1)] = [1, 64]
    # Rounds over all variants, interleaved; the median is reported.
    rounds: Positive = 30
    threads: Positive = 1


class Registry(Section):
    # Name of the registered model.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")] = "image-classifier"
    # What may become a challenger: fp32, pruned (both agree with their torch network), int8, pruned_int8.
    variants: Annotated[list[Literal["fp32", "pruned", "int8", "pruned_int8"]], Field(min_length=1)] = ["fp32"]
    # Budgets: a candidate over one of them is passed by. Validation accuracy is a share of 1.
    min_accuracy: Share = 0.5
    max_size_mb: Annotated[float, Field(gt=0)] = 100.0
    # Median at batch 1 on the machine that ran `benchmark`.
    max_latency_ms: Annotated[float, Field(gt=0)] = 100.0


class Model(BaseModel):
    """An entry of `models`: an architecture (a file of pipeline/architectures/) and overrides of `train`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    architecture: str

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Params(Section):
    """All of params.yaml."""

    # Experiment in MLflow that the runs go to.
    experiment: str
    ingest: Ingest
    validate_: Validate = Field(alias="validate")
    split: Split
    augment: Augment
    models: Annotated[dict[str, Model], Field(min_length=1)]
    train: Train
    prune: Prune
    export: Export
    quantize: Quantize
    evaluate: Evaluate
    audit: Audit
    benchmark: Benchmark
    registry: Registry

    @model_validator(mode="after")
    def _models_hold_together(self) -> Params:
        for name in self.models:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"models.{name}: a model's name may hold letters, digits and, not first, '-' and '_'")
            self.recipe(name)
        return self

    def recipe(self, model: str) -> Train:
        """The recipe of one model: `train`, overridden by the model's own keys."""
        if model not in self.models:
            raise ValueError(f"params.yaml has no model {model!r}; it has: {', '.join(self.models)}")
        try:
            return Train(**{**self.train.model_dump(), **self.models[model].overrides})
        except ValidationError as error:
            raise ValueError(_sentence(error, Train, f"models.{model}.")) from None


def load(path: Path) -> Params:
    """Read and check params.yaml. Raises ValueError with one sentence that names the key and the mend."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: `python -m pipeline init --dataset digits` writes one") from None
    return check(text, str(path))


def check(text: str, path: str) -> Params:
    """Params from the text of a file called `path`. Raises ValueError as `load` does."""
    try:
        content = YAML(typ="safe", pure=True).load(text)  # YAML 1.2, as DVC reads it: 1e-3 is a number
    except YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold the sections {', '.join(_keys(Params))}")
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {_sentence(error, Params)}") from None
    _names_exist(path, params)
    return params


def _names_exist(path: str, params: Params) -> None:
    """Names that stand for code: a source, an architecture. Read from the folders, not restated."""
    for name, model in params.models.items():
        _known(f"{path}: models.{name}.architecture", model.architecture, files_of("architectures"))
    _known(f"{path}: ingest.source", params.ingest.source, sorted(sources()))


def files_of(package: str) -> list[str]:
    """Names of the public modules of a package of the pipeline: adding a file is adding a choice."""
    folder = Path(__file__).parent / package
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


def _known(key: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} is {value!r}{_did_you_mean(value, choices)}; it can be: {', '.join(choices)}")


def _sentence(error: ValidationError, root: type[BaseModel], prefix: str = "") -> str:
    """The first of pydantic's findings, as a sentence."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        where = ".".join(map(str, first["loc"]))
        return f"{prefix}{where}{': ' if where else ''}{first['ctx']['error']}"
    where = prefix + ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = _keys(_section_at(root, first["loc"][:-1]))
        key = str(first["loc"][-1])
        return f"{where} is not a known key{_did_you_mean(key, known)}; known here: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where} is missing: add it"
    return f"{where} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _section_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    for part in location:
        inner = next(f.annotation for n, f in model.model_fields.items() if (f.alias or n) == part)
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        model = inner
    return model


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _did_you_mean(wrong: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(wrong, choices, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
