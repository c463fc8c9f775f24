"""What a training gets, made of the small dataset: in memory, or as files at the paths of layout.py."""

import numpy as np

from pipeline import layout
from pipeline.artifacts import Dataset, write_json, write_table
from pipeline.augmentation.policy import POLICIES, Policy
from pipeline.config import Train
from pipeline.preprocessing import Preprocessing
from pipeline.training import inputs
from pipeline.training.balance import Balance, balanced

RECIPE = Train(epochs=2, batch_size=16, learning_rate=0.05, device="cpu", precision="float32", threads=1)


def recipe(**changes: object) -> Train:
    return RECIPE.model_copy(update=changes)


def balance_of(dataset: Dataset, mode: str = "none") -> Balance:
    rows = dataset.rows("train")
    return balanced(rows, dataset.labels[rows], dataset.class_names, mode, seed=0)


def inputs_of(
    dataset: Dataset, recipe: Train = RECIPE, policy: Policy = POLICIES["none"], mode: str = "none"
) -> inputs.TrainingInputs:
    return inputs.inputs_of(dataset, balance_of(dataset, mode), policy, recipe)


def write_inputs(dataset: Dataset) -> None:
    """In the working directory, as the data stages leave them without augmentation."""
    balance = balance_of(dataset)
    layout.IMAGES.parent.mkdir(parents=True)
    np.save(layout.IMAGES, dataset.images_NHWC)
    write_json(layout.PREPROCESSING, Preprocessing(16, "crop", (255, 255, 255)).record())
    write_table(layout.SPLITS, dataset.splits)
    write_table(layout.SAMPLE_INDEX, balance.sample_index)
    weighing = {"class_weights": balance.class_weights, "logit_offsets": balance.logit_offsets}
    write_json(layout.POLICY, {"policy": {}, **weighing})
    write_json(layout.NORM_STATS, {"mean": [0.3] * 3, "std": [0.3] * 3})
