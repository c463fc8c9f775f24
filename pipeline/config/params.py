"""Reading and checking params.yaml as a whole."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config.data import Augment, Ingest, Split, Validate
from pipeline.config.models import Ensemble, Model, Prune, Train
from pipeline.config.recipes import merged
from pipeline.config.results import Audit, Benchmark, Evaluate, Export, Quantize, Registry
from pipeline.config.section import Section
from pipeline.datasets import sources
from pipeline.errors import UserError

SectionType = TypeVar("SectionType", bound=Section)


class Params(Section):
    """All of params.yaml."""

    # Experiment in MLflow that the runs go to.
    experiment: str
    ingest: Ingest
    validate_: Validate = Field(alias="validate")
    split: Split
    augment: Augment
    models: Annotated[dict[str, Model], Field(min_length=1)]
    ensembles: dict[str, Ensemble]
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
        for section, names in (("models", self.models), ("ensembles", self.ensembles)):
            for name in names:
                # Names become paths, names of runs and words of a shell's command
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                    raise UserError(f"{section}: {name!r}: a name holds letters, digits and, not first, '-' and '_'")
        for name in self.models:
            self.recipe(name)
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
        """The stage that makes the checkpoint of a model or of an ensemble."""
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
        return section(Train, merged(self.train.model_dump(), own), f"models.{model}.")


def section(kind: type[SectionType], content: Mapping[str, Any], prefix: str) -> SectionType:
    """One section by itself. Raises UserError with one sentence that names the key, after `prefix`, and the mend."""
    try:
        return kind(**content)
    except ValidationError as error:
        raise UserError(_sentence(error, kind, prefix)) from None


def load(path: Path) -> Params:
    """Read and check params.yaml. Raises UserError with one sentence that names the key and the mend."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: `python -m pipeline init --dataset digits` writes one") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not UTF-8: save the file as UTF-8, or write that line anew") from None
    return check(text, str(path))


def check(text: str, path: str) -> Params:
    """Params from the text of a file called `path`. Raises UserError as `load` does."""
    try:
        content = YAML(typ="safe", pure=True).load(text)  # YAML 1.2, as DVC reads it: 1e-3 is a number
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold the sections {', '.join(_keys(Params))}")
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error, Params)}") from None
    _names_exist(path, params)
    return params


def _names_exist(path: str, params: Params) -> None:
    """Names that stand for code: a source, an architecture. Read from the folders, not restated."""
    for name, model in params.models.items():
        if model.architecture == "ensemble":
            raise UserError(
                f"{path}: models.{name}.architecture is 'ensemble', which is not trained: move the entry to `ensembles`"
            )
        _known(f"{path}: models.{name}.architecture", model.architecture, architectures())
    _known(f"{path}: ingest.source", params.ingest.source, sorted(sources()))


def architectures() -> list[str]:
    """What an entry of `models` may be made of: an ensemble is not trained."""
    return [name for name in files_of("networks/architectures") if name != "ensemble"]


def files_of(package: str) -> list[str]:
    """Names of the public modules of a package of the pipeline: adding a file is adding a choice."""
    folder = Path(__file__).parent.parent / package
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


def _known(key: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise UserError(f"{key} is {value!r}{_did_you_mean(value, choices)}; it can be: {', '.join(choices)}")


def _sentence(error: ValidationError, root: type[BaseModel], prefix: str = "") -> str:
    """The first of pydantic's findings, as a sentence."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        where = _place(first["loc"])
        return f"{prefix}{where}{': ' if where else ''}{first['ctx']['error']}"
    where = prefix + _place(first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys(_section_at(root, first["loc"][:-1]))
        key = str(first["loc"][-1])
        return f"{where} is not a known key{_did_you_mean(key, known)}; known here: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where} is missing: add it"
    return f"{where} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _place(location: tuple[int | str, ...]) -> str:
    """As people write it: convolutions[2].filters."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _section_at(kind: Any, location: tuple[int | str, ...]) -> type[BaseModel]:
    for part in location:
        inside = get_args(kind)  # of a list or a dict: its elements' type comes last
        fields = {} if inside else {f.alias or name: f.annotation for name, f in kind.model_fields.items()}
        kind = inside[-1] if inside else fields[part]
    assert isinstance(kind, type) and issubclass(kind, BaseModel)
    return kind


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _did_you_mean(wrong: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(wrong, choices, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
