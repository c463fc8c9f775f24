"""The shell of the stages that train: train, prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.kept import Kept
from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile, load, summary, write_metrics

if TYPE_CHECKING:
    from pipeline.artifacts import ModelCard
    from pipeline.stages.train import Trained

Resume = Annotated[Path | None, typer.Option("--resume", help="Checkpoints that a killed run goes on from.")]


def train(
    model: str, images: Path, preprocessing: Path, splits: Path, augmented: Path, out: Path,
    resume: Resume = None, params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Train one entry of `models`."""
    from pipeline.artifacts import sha256, write_json
    from pipeline.diagnosis.examination import examine
    from pipeline.diagnosis.rules import findings_of, in_words
    from pipeline.stages.train import train as run
    from pipeline.tracking import live_run, sync_or_warn
    from pipeline.training.distributed import joined, start
    from pipeline.training.inputs import card_of, material_of
    from pipeline.training.progress import Epoch, say
    from pipeline.training.signals import ended_at_once

    config = load(params)
    recipe = config.recipe(model)
    start(recipe.processes)
    material = material_of(images, splits, augmented)
    card = card_of(config.models[model], material, preprocessing)
    kept = Kept(resume, recipe.checkpoint_seconds, [recipe, card, material.inputs], [images, splits])
    with joined(recipe.device) as team, summary(f"train {model}", team.leads) as facts:
        with ended_at_once(), live_run(config, model, kept.memo, kept.key, team.leads) as live:

            def on_epoch(seed: int, epoch: Epoch) -> None:
                say(epoch)
                live.epoch(epoch.row, epoch.cost, f"seed_{seed}." if recipe.seeds > 1 else "")

            trained = run(card, material.dataset, material.balance, material.policy, recipe, on_epoch, kept.vault, team)
            if not team.leads:
                return
            checkpoint = _write_training(out, trained, card)
            placement = trained.fitted.placement
            examined = examine(
                trained.fitted.network, card, trained.fitted.best_epoch, trained.metrics["best_val_accuracy"],
                material.dataset, trained.rows, recipe.seed, placement.device,
            )  # fmt: skip
            write_json(out / "examined.json", examined)
            if trained.metrics["by_gradients"]:
                print("\n".join(in_words(findings_of(trained.history, recipe, examined))), flush=True)
            measured = trained.metrics | {"train_accuracy_plain": examined["kept"]["train_accuracy"]}
            write_metrics(out, measured, checkpoint, splits=sha256(splits))
            live.finished(checkpoint, {"device": str(placement.device), "precision": placement.reason})
        sync_or_warn(config, model, out.parent.parent)
        kept.clear()
        facts += [f"val accuracy {trained.metrics['best_val_accuracy']:.4f}", f"best epoch {trained.fitted.best_epoch}"]
        facts += [str(placement.device), placement.reason, f"weights {trained.seeds['weights'][0]}"]


def _write_training(out: Path, trained: Trained, card: ModelCard) -> Path:
    """The shipped seed's checkpoint, and a folder of what there is about all seeds."""
    from pipeline.artifacts import write_table
    from pipeline.networks import weights

    for seed, network in trained.networks.items():
        if seed != trained.seed:
            weights.save(out / "seeds" / f"seed-{seed}.safetensors", network, card)
    write_table(out / "seeds" / "seeds.csv", trained.seeds)
    write_table(out / "history.csv", trained.history)
    path = out / "checkpoint.safetensors"
    weights.save(path, trained.fitted.network, card)
    return path


def prune(
    model: str, source: Path, images: Path, splits: Path, augmented: Path, out: Path,
    resume: Resume = None, params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Remove channels from the trained network SOURCE and fine-tune what is left."""
    from pipeline.artifacts import write_table
    from pipeline.networks import weights
    from pipeline.stages.prune import prune as run
    from pipeline.tracking import sync_or_warn
    from pipeline.training.inputs import material_of
    from pipeline.training.progress import say
    from pipeline.training.signals import ended_at_once

    config = load(params)
    recipe = config.recipe(model)
    material = material_of(images, splits, augmented)
    with summary(f"prune {model}") as facts, ended_at_once():
        network, card = weights.load(source)
        kept = Kept(resume, recipe.checkpoint_seconds, [recipe, card, material.inputs, config.prune], [images, source])
        fitted, metrics = run(
            network, card, material.dataset, material.balance, material.policy, recipe, config.prune, say,
            kept.vault(recipe.seed),
        )  # fmt: skip
        weights.save(out / "checkpoint.safetensors", fitted.network, card)
        write_table(out / "history.csv", fitted.history)
        write_metrics(out, metrics, source)
        sync_or_warn(config, model, out.parent.parent)
        kept.clear()
        facts += [f"{metrics['parameters_kept']:.1%} of the parameters", f"{metrics['macs_kept']:.1%} of the work"]
        facts += [f"val accuracy {metrics['best_val_accuracy']:.4f}"]
