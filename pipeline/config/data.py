"""The sections of the data: ingest, validate, split, augment."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, model_validator

from pipeline.augmentation.policy import POLICIES, Policy
from pipeline.config.section import Above0, Count, OpenShare, Positive, Section, Seed, Share
from pipeline.datasets import sources
from pipeline.errors import UserError

CheckName = Literal[
    "known_classes", "class_names", "class_images", "readable", "one_label", "near_one_label", "leakage", "copies",
    "near_duplicates", "intact", "balance", "side", "aspect", "size", "brightness", "contrast", "brightness_outlier",
    "sharpness_outlier", "colour", "drift",
]  # fmt: skip
Ratio = Annotated[float, Field(ge=1)]


class Ingest(Section):
    source: Literal[tuple(sorted(sources()))]  # type: ignore[valid-type]  # the choices are files
    root: str
    """Where the source's files are. DVC watches this path: a change in it reruns `ingest`."""
    labels: str = "labels.csv"
    """Of the source csv: the table's name inside `root`; columns path, label and, if wanted, split and group."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 32
    """Side in pixels that every image is brought to."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """crop fills the square and cuts the longer side, pad shows all, stretch ignores the aspect."""
    background: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)] = [255] * 3
    """Red, green, blue behind transparent pixels and padding."""
    strict: bool = False
    """true: what cannot be read stops the run. false: it is set aside in quarantine.csv (validate.max_quarantined)."""
    workers: Count = 0
    """Processes that decode; 0 = one a core."""


class Validate(Section):
    critical: list[CheckName] = ["known_classes", "class_images", "readable", "one_label"]
    """Checks whose failure stops the pipeline; all the others warn."""
    classes: list[str] = []
    """The classes that there must be, no more and no fewer; [] = whatever is found."""
    min_images_per_class: Annotated[int, Field(ge=3)] = 10
    """With fewer, a class cannot be split three ways."""
    max_quarantined: Share = 0.01
    """Share of the files that could not be read."""
    max_imbalance: Ratio = 10.0
    """Largest class over any other."""
    min_side: Positive = 8
    """Shorter side of a file, in pixels."""
    max_aspect: Ratio = 4.0
    """Longer side over shorter."""
    max_size_ratio: Ratio = 5.0
    """Side length over the median's, or the other way round."""
    brightness: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.02, 0.98]
    """Mean, 0 black to 1 white."""
    min_contrast: Share = 0.01
    """Standard deviation of the brightness, 0 to 0.5."""
    max_outlier: Above0 = 5.0
    """How far from the rest brightness and sharpness may lie, in robust standard deviations."""
    tolerated: Share = 0.01
    """Share of the images that may miss brightness, contrast, outliers or colour."""
    max_hash_distance: Annotated[int, Field(ge=0, le=16)] = 10
    """Near-duplicates: bits of the 64 of the perceptual hashes that may differ ..."""
    min_similarity: Annotated[float, Field(gt=0.5, le=1)] = 0.9
    """... and least correlation of the grey values; 1 = exact copies only."""
    max_drift: Above0 = 0.25
    """Population stability index against what `python -m pipeline accept` accepted."""

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.brightness[0] >= self.brightness[1]:
            raise UserError(f"brightness is {self.brightness}: write the lower bound first")
        return self


class Split(Section):
    validation: OpenShare = 0.1
    """Share of the images that is cut; what is left after these two is for training."""
    test: OpenShare = 0.1
    keep_source_splits: bool = True
    """true: where the source has a val or test split of its own, it is kept."""
    group_pattern: str = ""
    """Images of one patient or video stay on one side: a regular expression on the path, whose first group names what
    they share, e.g. "(patient[0-9]+)". A `group` column of a table counts without it."""
    folds: Annotated[int, Field(ge=0, le=50)] = 0
    """Cross-validation: number of folds (0 = none), and the one that validates, from 0."""
    fold: Count = 0
    seed: Seed = 0

    @model_validator(mode="after")
    def _can_be_cut(self) -> Self:
        if self.validation + self.test >= 1:
            raise UserError(f"validation + test is {self.validation + self.test:g} and leaves nothing to train on")
        if self.folds == 1 or self.fold >= max(1, self.folds):
            raise UserError(f"fold {self.fold} of {self.folds}: folds is 0 or at least 2, and fold runs from 0")
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise UserError(f"group_pattern is no regular expression ({error})") from None
        if self.group_pattern and not groups:
            raise UserError(f"group_pattern {self.group_pattern!r} has no group: put brackets round what is shared")
        return self


class Augment(Section):
    policy: Literal[tuple(POLICIES)] = "standard"  # type: ignore[valid-type]  # the choices are a table's
    overrides: Policy = Policy()
    """Single knobs, e.g. {rotation: 10, horizontal_flip: false}; all of them: pipeline/augmentation/policy.py"""
    balance: Literal["none", "sampler", "duplicates", "loss_weights", "logit_adjustment"] = "none"
    """For rare classes: drawn more often, listed several times, with more weight in the loss, or trained against the
    classes' frequencies."""
    seed: Seed = 0
    """Of the preview, and of the choice of duplicates."""

    @field_serializer("overrides")
    def _those_that_are_set(self, overrides: Policy) -> dict[str, Any]:
        return overrides.model_dump(exclude_unset=True)
