"""What all sections of params.yaml are made of, and what is said of a wrong one."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
AtLeast0 = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """One section of params.yaml. The docstring below a field is its comment there: see as_yaml.py."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def checked(cls, content: Mapping[str, Any], prefix: str) -> Self:
        """One section by itself. Raises UserError with one sentence that names the key, after `prefix`, and the fix."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
        # As people write it: convolutions[2].filters
        place = [part for part in first["loc"] if part != "[key]"]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
        where, context = f"{prefix}{where}", first.get("ctx", {})
        if first["type"] == "value_error":
            raise UserError(f"{where}{': ' if first['loc'] else ''}{context['error']}")
        if first["type"] == "missing":
            raise UserError(f"{where} is missing: add it")
        if first["type"] == "extra_forbidden":
            known = _keys_at(cls, first["loc"][:-1])
            close = _did_you_mean(first["loc"][-1], known)
            raise UserError(f"{where} is not a known key{close}; known here: {', '.join(known)}")
        if first["type"] in ("model_type", "dict_type"):
            first["msg"] = "write its keys below it, or {} for none"
        close = _did_you_mean(first["input"], re.findall("'(.*?)'", context.get("expected", "")))
        value = "empty" if first["input"] is None else repr(first["input"])
        raise UserError(f"{where.removesuffix(': ')} is {value}{close}: {first['msg'][0].lower()}{first['msg'][1:]}")


def files_of(package: str) -> list[str]:
    """Names of the public modules of a package of the pipeline: adding a file is adding a choice."""
    folder = Path(__file__).parent.parent / package
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


def architectures() -> list[str]:
    """What an entry of `models` may be made of: an ensemble is not trained."""
    return [name for name in files_of("networks/architectures") if name != "ensemble"]


def _keys_at(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at a place inside `kind`."""
    for part in location:
        inside = get_args(kind)  # of a list or a dict: its elements' type comes last
        kind = inside[-1] if inside else {f.alias or name: f.annotation for name, f in kind.model_fields.items()}[part]
    return [field.alias or name for name, field in kind.model_fields.items()]


def _did_you_mean(wrong: object, choices: list[str]) -> str:
    close = difflib.get_close_matches(str(wrong), choices, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
