"""`lr-find`: which learning rate to try, with a picture."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import load
from pipeline.errors import UserError


def lr_find(
    model: str,
    steps: Annotated[int, typer.Option(min=20, help="Steps of the test, at the model's batch size.")] = 150,
    out: Annotated[Path | None, typer.Option(help="The picture; default: lr-find-MODEL.png.")] = None,
) -> None:
    """Train one entry of `models` for some steps with a growing learning rate, and suggest one."""
    from pipeline.evaluation.plots import learning_rates, save
    from pipeline.networks.architectures import find
    from pipeline.training.data_loading import data_loader
    from pipeline.training.device import place
    from pipeline.training.inputs import initialized, read_card, read_inputs
    from pipeline.training.lr_find import find_learning_rate, suggested
    from pipeline.training.step import TrainingStep

    config = load()
    recipe, entry = config.recipe(model), config.models[model]
    if hasattr(find(entry.architecture), "solve"):
        raise UserError(f"models.{model}.architecture, {entry.architecture}, has no learning rate: name another model")
    inputs = read_inputs(recipe)
    card = read_card(entry, inputs.class_names)
    network = initialized(card, inputs, recipe.seed, f"models.{model}.")
    placement = place(recipe, network, card.preprocessing.size, len(card.class_names))
    step = TrainingStep(network, card, inputs, recipe, placement)
    loader = data_loader(inputs.images_NHWC, inputs.labels, inputs.rows, recipe.images, placement.device)
    found = find_learning_rate(step, loader, inputs, steps)
    steepest, peak = suggested(found)
    path = out or Path(f"lr-find-{model}.png")
    title = f"{model}, {recipe.optimizer}, batch {recipe.batch_size}"
    save(learning_rates(found, steepest, peak, title), path)
    print(f"{title}: suggested learning_rate {peak:.2g}, now it is {recipe.learning_rate:g}; picture: {path}")
