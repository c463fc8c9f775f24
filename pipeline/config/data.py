"""The sections of the data: ingest, validate, split, augment."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.section import OpenShare, Positive, Section, Seed, Share, Size
from pipeline.errors import UserError

CheckName = Literal[
    "known_classes", "class_names", "class_images", "readable", "one_label", "near_one_label", "leakage", "copies",
    "near_duplicates", "intact", "balance", "side", "aspect", "size", "brightness", "contrast", "brightness_outlier",
    "sharpness_outlier", "colour", "drift",
]  # fmt: skip


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
            raise UserError(f"brightness is {self.brightness}: write the lower bound first")
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
            raise UserError(f"validation + test is {self.validation + self.test:g} and leaves nothing to train on")
        return self

    @model_validator(mode="after")
    def _fold_exists(self) -> Split:
        if self.folds == 1 or self.fold >= max(1, self.folds):
            raise UserError(f"fold {self.fold} of {self.folds}: folds is 0 or at least 2, and fold runs from 0")
        return self

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> Split:
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise UserError(f"group_pattern is no regular expression ({error})") from None
        if self.group_pattern and not groups:
            raise UserError(f"group_pattern {self.group_pattern!r} has no group: put brackets round what is shared")
        return self


class Augment(Section):
    # none | light | standard | strong | digits: see pipeline/augmentation/policy.py
    policy: str = "standard"
    # Any knob of the policy by itself, e.g. {horizontal_flip: false, rotation: 10}
    overrides: dict[str, bool | int | float] = {}
    # none | sampler (draw rare classes more often) | duplicates (list their images several times) | loss_weights
    # (weigh them more in the loss) | logit_adjustment (train against the classes' frequencies)
    balance: Literal["none", "sampler", "duplicates", "loss_weights", "logit_adjustment"] = "none"
    # Seed of the preview picture, and of the choice of duplicates.
    seed: Seed = 0
