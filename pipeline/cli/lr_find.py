"""`lr-find`: which learning rate to try, with a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DEFAULT_ARTIFACTS, DEFAULT_PARAMS, Artifacts, ParamsFile, load
from pipeline.errors import UserError


def lr_find(
    model: str,
    steps: Annotated[int, typer.Option(min=20, help="Steps of the test, at the model's batch size.")] = 150,
    out: Annotated[Path | None, typer.Option(help="The picture; default: lr-find-MODEL.png.")] = None,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Train one entry of `models` for some steps with a growing learning rate, and suggest one."""
    from pipeline.evaluation.plots import learning_rates, save
    from pipeline.networks.architectures import find
    from pipeline.stages.train import prepared, training_data
    from pipeline.training.data_loading import feed
    from pipeline.training.device import place
    from pipeline.training.inputs import card_of, material_of
    from pipeline.training.lr_find import find_learning_rate, suggested
    from pipeline.training.step import Engine

    config = load(params)
    recipe = config.recipe(model)
    architecture = config.models[model].architecture
    if hasattr(find(architecture), "solve"):
        raise UserError(
            f"models.{model}.architecture is {architecture}, which has no learning rate: name another model"
        )
    ingested = artifacts / "ingest"
    material = material_of(ingested / "images.npy", artifacts / "split" / "splits.parquet", artifacts / "augment")
    card = card_of(config.models[model], material, ingested / "preprocessing.json")
    data = training_data(material.dataset, material.balance, recipe)
    network, rates = prepared(card, data, recipe.seed)
    placement = place(recipe, network, card.preprocessing.size, len(card.class_names))
    weights = (data.class_weights, data.logit_offsets)
    engine = Engine(network, card, weights, recipe, material.policy, placement, rates)
    source = feed(data.images_NHWC, data.labels, data.rows, recipe.images, placement.device)
    with engine.at_work():
        found = find_learning_rate(engine, source, data.rows, steps)
    steepest, peak = suggested(found)
    path = out or Path(f"lr-find-{model}.png")
    save(learning_rates(found, steepest, peak, f"{model}, {recipe.optimizer}, batch {recipe.batch_size}"), path)
    print(
        f"{model} with {recipe.optimizer} at batch {recipe.batch_size}: suggested learning_rate {peak:.2g}, now it is "
        f"{recipe.learning_rate:g} (the loss falls fastest at {steepest:.2g}); picture: {path}"
    )
