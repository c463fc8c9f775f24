"""HTML pages from the templates beside this file. A page holds its pictures and needs no other file."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_TEMPLATES.filters |= {
    "data_uri": lambda png: "data:image/png;base64," + base64.b64encode(png).decode(),  # the `src` of an `img`
    "percent": lambda share: f"{share:.2%}",
    "thousands": lambda n: f"{n:,}",
    "p_value": lambda p: f"= {p:.3f}" if p >= 0.001 else "< 0.001",
}


def render(template: str, **values: object) -> str:
    """The page made from `template`, the name of a file *.j2 beside this one. A value that is missing is an error."""
    return _TEMPLATES.get_template(template).render(**values)
