"""What may happen to a training image: the knobs, and the policies that have names. Imports no torch."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Half = Annotated[float, Field(ge=0, le=0.5)]
Beta = Annotated[float, Field(ge=0, le=10)]


class Policy(BaseModel):
    """A strength of 0 (or false) turns its knob off; each sample of a batch gets a draw of its own for every knob."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Geometry: all of it is one resampling
    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees, drawn from [-rotation, rotation]."""
    translation: Half = 0.0
    """Share of the side, drawn from [-translation, translation] for each axis; in whole pixels where flips and shifts
    are all that happens."""
    scale: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Zoom drawn from [1 - scale, 1 + scale]."""
    resized_crop: Share = 0.0
    """Smallest share of the area that a random crop keeps; its aspect is drawn from 3/4 to 4/3, and it is brought back
    to full size (Szegedy et al. 2014, arXiv:1409.4842)."""

    # Colour: all of it is one matrix a sample
    brightness: Share = 0.0
    """Factor drawn from [1 - x, 1 + x]; so are contrast and saturation."""
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Half = 0.0
    """Share of a full turn of the colour circle, drawn from [-hue, hue]."""

    # What is hidden
    cutout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Side of a square that is blanked, as a share of the image's side (DeVries & Taylor 2017, arXiv:1708.04552)."""
    erasing: Share = 0.0
    """Probability that a rectangle of 2 to 33 % of the area is blanked (Zhong et al. 2017, arXiv:1708.04896)."""

    # Mixtures with another image of the batch, labels included
    mixup: Beta = 0.0
    """Both parameters of the beta distribution of the image's own share (Zhang et al. 2017, arXiv:1710.09412)."""
    cutmix: Beta = 0.0
    """The same for the share of the area that stays its own (Yun et al. 2019, arXiv:1905.04899)."""

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


def resolve(name: str, overrides: Policy) -> Policy:
    """A named policy with single knobs replaced: those that are set in `overrides`."""
    return POLICIES[name].model_copy(update=overrides.model_dump(exclude_unset=True))
