"""What may happen to a training image: the knobs, and the policies that have names. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.errors import UserError

# The largest sensible value of a knob, where that is not 1
LIMITS = {"rotation": 180, "translation": 0.5, "scale": 0.9, "hue": 0.5, "cutout": 0.9, "mixup": 10, "cutmix": 10}


@dataclass(frozen=True)
class Policy:
    """A strength of 0 (or false) turns its knob off; each sample of a batch gets a draw of its own for every knob."""

    # Geometry: all of it is one resampling
    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation: float = 0.0
    """Degrees, drawn from [-rotation, rotation]."""
    translation: float = 0.0
    """Share of the side, drawn from [-translation, translation] for each axis; in whole pixels where flips and shifts
    are all that happens."""
    scale: float = 0.0
    """Zoom drawn from [1 - scale, 1 + scale]."""
    resized_crop: float = 0.0
    """Smallest share of the area that a random crop keeps; its aspect is drawn from 3/4 to 4/3, and it is brought back
    to full size (Szegedy et al. 2014, arXiv:1409.4842)."""

    # Colour: all of it is one matrix a sample
    brightness: float = 0.0
    """Factor drawn from [1 - x, 1 + x]; so are contrast and saturation."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Share of a full turn of the colour circle, drawn from [-hue, hue]."""

    # What is hidden
    cutout: float = 0.0
    """Side of a square that is blanked, as a share of the image's side (DeVries & Taylor 2017, arXiv:1708.04552)."""
    erasing: float = 0.0
    """Probability that a rectangle of 2 to 33 % of the area is blanked (Zhong et al. 2017, arXiv:1708.04896)."""

    # Mixtures with another image of the batch, labels included
    mixup: float = 0.0
    """Both parameters of the beta distribution of the image's own share (Zhang et al. 2017, arXiv:1710.09412)."""
    cutmix: float = 0.0
    """The same for the share of the area that stays its own (Yun et al. 2019, arXiv:1905.04899)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                if not isinstance(value, bool):
                    raise UserError(f"augment.overrides.{field.name} is {value!r}: write true or false")
                continue
            top = LIMITS.get(field.name, 1)
            if isinstance(value, bool) or not 0 <= value <= top:
                raise UserError(f"augment.overrides.{field.name} is {value!r}: it must lie between 0 and {top}")

    @property
    def warps(self) -> bool:
        return self.horizontal_flip or self.vertical_flip or self.translation > 0 or self.interpolates

    @property
    def interpolates(self) -> bool:
        """Pixels of the result lie between pixels of the image. Shifts alone are by whole pixels."""
        return any((self.rotation, self.scale, self.resized_crop))


POLICIES = {
    "none": Policy(),
    "light": Policy(horizontal_flip=True),
    "standard": Policy(horizontal_flip=True, translation=0.125, scale=0.1, brightness=0.1, contrast=0.1),
    "strong": Policy(
        horizontal_flip=True, rotation=15, translation=0.125, scale=0.2,
        brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, cutout=0.25,
    ),
    # A mirrored or strongly turned digit is another digit, or none
    "digits": Policy(rotation=10, translation=0.1, scale=0.1, brightness=0.1, contrast=0.1),
}  # fmt: skip


def resolve(name: str, overrides: dict[str, bool | int | float]) -> Policy:
    """A named policy with single knobs replaced. Raises UserError naming the parameter."""
    if name not in POLICIES:
        raise UserError(f"augment.policy is {name!r}; it can be: {', '.join(POLICIES)}")
    knobs = [field.name for field in dataclasses.fields(Policy)]
    for knob in overrides:
        if knob not in knobs:
            raise UserError(f"augment.overrides.{knob} is not a known knob; known: {', '.join(knobs)}")
    return dataclasses.replace(POLICIES[name], **overrides)  # type: ignore[arg-type]  # checked by Policy itself
