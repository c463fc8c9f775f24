"""`train@MODEL`: fit one entry of `models` on the training split, chosen by the validation split."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from torch import nn

from pipeline import layout
from pipeline.artifacts import ModelCard, sha256, write_json, write_metrics, write_table
from pipeline.config import Params, Train
from pipeline.diagnosis.examination import examine
from pipeline.diagnosis.rules import findings_of, in_words
from pipeline.evaluation.selection import best_by_validation
from pipeline.networks import weights
from pipeline.networks.architectures import find
from pipeline.training.checkpointing import Checkpoints, checkpoints_of
from pipeline.training.closed_form import fit_closed_form
from pipeline.training.distributed import ALONE, Distributed, process_group, start_processes
from pipeline.training.inputs import FILES, TrainingInputs, initialized, read_card, read_inputs
from pipeline.training.loop import Fitted, fit, metrics
from pipeline.training.signals import immediate_signals

# Of the training's key, and whether this is the main process: tracking/live.py
Live = Callable[[str, bool], AbstractContextManager[Any]]
Row = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """`fitted`: of the seed with the best validation accuracy, `seed`. `networks`: of all seeds. `history`: a row per
    epoch and seed, those of `seed` first. `seeds`: a row per seed. `metrics`: metrics.json."""

    fitted: Fitted
    seed: int
    networks: dict[int, nn.Module]
    history: pd.DataFrame
    seeds: pd.DataFrame
    metrics: dict[str, Any]


def run(config: Params, name: str, live: Live) -> list[str]:
    """Facts for the summary; none in the other processes of a distributed training."""
    recipe = config.recipe(name)
    if not hasattr(find(config.models[name].architecture), "solve"):
        start_processes(recipe.processes)
    inputs = read_inputs(recipe)
    card = read_card(config.models[name], inputs.class_names)
    checkpoints = checkpoints_of(layout.resume("train", name), recipe.checkpoint_seconds, [recipe, card], FILES)
    processes = process_group(recipe.device)
    with processes as group, immediate_signals(), live(checkpoints.key, group.is_main) as tracked:

        def on_epoch(seed: int, row: Row, cost: Row) -> None:
            tracked.epoch(row, cost, f"seed_{seed}." if recipe.seeds > 1 else "")

        trained = train(card, inputs, recipe, on_epoch, checkpoints, group, f"models.{name}.")
        if not group.is_main:
            return []
        fitted, accuracy = trained.fitted, trained.metrics["best_val_accuracy"]
        device, reason = fitted.placement.device, fitted.placement.reason
        examined = examine(fitted.network, card, inputs.images_NHWC, inputs.labels, inputs.rows, recipe.seed, device)
        examined |= {"best_epoch": fitted.best_epoch, "val_accuracy": accuracy, "val_images": len(inputs.val_rows)}
        _write(name, trained, card, examined)
        if trained.metrics["by_gradients"]:
            print("\n".join(in_words(findings_of(trained.history, recipe, examined))), flush=True)
        tracked.finished(layout.checkpoint("train", name), {"device": str(device), "precision": reason})
    checkpoints.clear()
    facts = [f"val accuracy {accuracy:.4f}", f"best epoch {fitted.best_epoch}", str(device), reason]
    return [*facts, f"weights {trained.seeds['weights'][0]}"]


def _write(name: str, trained: Trained, card: ModelCard, examined: dict[str, Any]) -> None:
    checkpoint = layout.checkpoint("train", name)
    for seed, network in trained.networks.items():
        weights.save(checkpoint if seed == trained.seed else layout.seed_checkpoint(name, seed), network, card)
    write_table(layout.seeds_table(name), trained.seeds)
    write_table(layout.history("train", name), trained.history)
    write_json(layout.examined(name), examined)
    found = trained.metrics | {"train_accuracy_plain": examined["train_accuracy"]}
    write_metrics("train", name, found, checkpoint, splits=sha256(layout.SPLITS))


def train(
    card: ModelCard, inputs: TrainingInputs, recipe: Train,
    on_epoch: Callable[[int, Row, Row], None] = lambda seed, row, cost: None,
    checkpoints: Checkpoints | None = None, group: Distributed = ALONE, key: str = "",
) -> Trained:  # fmt: skip
    """One training for each of `recipe.seeds`, of whose number `on_epoch` is told, on the same images."""
    fits, measured, by_gradients = {}, {}, not hasattr(find(card.architecture), "solve")
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        seeded, told = recipe.model_copy(update={"seed": seed}), partial(on_epoch, seed)
        if recipe.seeds > 1 and group.is_main:
            print(f"seed {seed}, {seed - recipe.seed + 1} of {recipe.seeds}", flush=True)
        network = initialized(card, inputs, seed, key)
        if by_gradients:
            fits[seed] = fit(network, card, inputs, seeded, told, checkpoints, group)
        else:
            fits[seed] = fit_closed_form(network, card, inputs, seeded, told)
        measured[seed] = metrics(fits[seed], card, inputs) | {"by_gradients": by_gradients}
    best = best_by_validation({seed: found["best_val_accuracy"] for seed, found in measured.items()})
    order = [best, *(seed for seed in fits if seed != best)]
    networks = {seed: fits[seed].network for seed in order}
    history = pd.concat({seed: fits[seed].history for seed in order}, names=["seed"]).droplevel(1).reset_index()
    seeds = pd.DataFrame({"seed": order, "best_epoch": [fits[seed].best_epoch for seed in order]})
    seeds["val_accuracy"] = [measured[seed]["best_val_accuracy"] for seed in order]
    seeds["weights"] = [weights.weights_hash(network) for network in networks.values()]
    seeds["shipped"] = seeds["seed"] == best
    return Trained(fits[best], best, networks, history, seeds, measured[best])
