"""params.yaml as text: every key with its value, and as its comment the choices and the docstring of its field."""

import json
import textwrap
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from pipeline.config.params import Model, Params
from pipeline.config.section import Section

WIDTH, COLUMN = 120, 33  # of a line; where a comment behind a value starts


def as_yaml(params: Params) -> str:
    """All of `params`; of an entry of `models` the keys that are set."""
    blocks = [_comment(Params.__doc__)]
    for name, field in Params.model_fields.items():
        key, value = field.alias or name, getattr(params, name)
        if isinstance(value, Section):
            fields = type(value).model_fields.items()
            lines = [f"{key}:", *(line for knob, inner in fields for line in _knob(knob, inner, getattr(value, knob)))]
        elif key == "models":
            lines = [f"{key}:", *(line for entry in value.items() for line in _model(*entry))]
        else:
            lines = [f"{key}: {_written(value)}"]
        blocks.append(_comment(field.description) + lines)
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _knob(key: str, field: FieldInfo, value: Any) -> list[str]:
    """The comment stands behind the value where there is room, else above."""
    kinds = (field.annotation, *get_args(field.annotation))  # a Literal, or a list of one
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    comment = ". ".join(text for text in (" | ".join(choices), field.description) if text)
    line = f"  {key}: {_written(value, plain=bool(choices))}"
    beside = f"{line:<{COLUMN - 1}} # {comment}" if comment else line
    return [beside] if len(beside) <= WIDTH and "\n" not in beside else [*_comment(comment, "  "), line]


def _model(name: str, model: Model) -> list[str]:
    keys = model.model_dump(exclude_unset=True).items()
    return [f"  {name}:", *(f"    {key}: {_written(value, plain=key == 'architecture')}" for key, value in keys)]


def _comment(text: str | None, indent: str = "") -> list[str]:
    start = f"{indent}# "
    words = " ".join((text or "").split())
    return textwrap.wrap(words, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _written(value: Any, plain: bool = False) -> str:
    """As JSON, which is YAML: a quoted word may hold anything. One of a few choices needs no quotes."""
    text = json.dumps(value, ensure_ascii=False, default=lambda model: model.model_dump(exclude_unset=True))
    return text.replace('"', "") if plain else text
