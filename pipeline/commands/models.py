"""The shell of the model stages: train, prune, combine, export, quantize, evaluate, benchmark, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile, summary
from pipeline.config import load

if TYPE_CHECKING:
    from pipeline.artifacts import Dataset, ModelCard
    from pipeline.config import Model
    from pipeline.training.balance import Balance
    from pipeline.training.loop import Fitted
    from pipeline.training.policy import Policy


@dataclass(frozen=True)
class _Material:
    """What `augment` left for training."""

    dataset: Dataset
    policy: Policy
    balance: Balance
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _material(images: Path, splits: Path, augmented: Path) -> _Material:
    from pipeline.artifacts import read_dataset, read_json, read_table
    from pipeline.training.balance import Balance
    from pipeline.training.policy import Policy

    policy, stats = read_json(augmented / "policy.json"), read_json(augmented / "norm_stats.json")
    return _Material(
        read_dataset(images, splits),
        Policy(**policy["policy"]),
        Balance(read_table(augmented / "sample_index.parquet"), policy["class_weights"], policy["logit_offsets"]),
        tuple(stats["mean"]),
        tuple(stats["std"]),
    )


def _card(model: Model, material: _Material, preprocessing: Path) -> ModelCard:
    from pipeline.architectures import checked, find
    from pipeline.artifacts import ModelCard, read_json
    from pipeline.preprocessing import Preprocessing

    prepared = Preprocessing.from_record(read_json(preprocessing))
    options = checked(model.architecture, model.options)
    statistics = getattr(find(model.architecture), "statistics", None)
    mean, std = statistics(options) if statistics else (material.mean, material.std)
    return ModelCard(model.architecture, material.dataset.class_names, prepared, mean, std, model.options)


def train(
    model: str, images: Path, preprocessing: Path, splits: Path, augmented: Path, out: Path,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Train one entry of `models`."""
    from pipeline.artifacts import sha256
    from pipeline.stages.train import train as run
    from pipeline.tracking import live_run, sync_or_warn
    from pipeline.training.loop import Epoch, say

    config = load(params)
    recipe = config.recipe(model)
    material = _material(images, splits, augmented)
    card = _card(config.models[model], material, preprocessing)
    with summary(f"train {model}") as facts, live_run(config, model) as live:

        def on_epoch(epoch: Epoch) -> None:
            say(epoch)
            cost = {"epoch_seconds": epoch.seconds, "images_per_second": epoch.images_per_second}
            live.epoch(epoch.row, cost)

        fitted, metrics = run(card, material.dataset, material.balance, material.policy, recipe, on_epoch)
        checkpoint = _write(out, fitted, card)
        _write_metrics(out, metrics, checkpoint, splits=sha256(splits))
        live.finished(checkpoint, {"device": str(fitted.placement.device), "precision": fitted.placement.reason})
        facts += [f"val accuracy {metrics['best_val_accuracy']:.4f}", f"best epoch {fitted.best_epoch}"]
        facts += [str(fitted.placement.device), fitted.placement.reason]
    sync_or_warn(config, model, out.parent.parent)


def _write(out: Path, fitted: Fitted, card: ModelCard) -> Path:
    from pipeline.artifacts import write_table
    from pipeline.training import checkpoint

    path = out / "checkpoint.safetensors"
    checkpoint.save(path, fitted.network, card)
    write_table(out / "history.csv", fitted.history)
    return path


def _write_metrics(out: Path, metrics: dict[str, Any], checkpoint: Path, **origin: str) -> None:
    """metrics.json, and beside it the trained checkpoint that they come from."""
    from pipeline.artifacts import LINEAGE, sha256, write_json

    write_json(out / "metrics.json", metrics)
    write_json(out / LINEAGE, {"checkpoint": sha256(checkpoint), **origin})


def prune(
    model: str, source: Path, images: Path, splits: Path, augmented: Path, out: Path,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Remove channels from the trained network SOURCE and fine-tune what is left."""
    from pipeline.stages.prune import prune as run
    from pipeline.tracking import sync_or_warn
    from pipeline.training import checkpoint
    from pipeline.training.loop import say

    config = load(params)
    material = _material(images, splits, augmented)
    with summary(f"prune {model}") as facts:
        network, card = checkpoint.load(source)
        fitted, metrics = run(
            network, card, material.dataset, material.balance, material.policy, config.recipe(model), config.prune, say,
        )  # fmt: skip
        _write(out, fitted, card)
        _write_metrics(out, metrics, source)
        facts += [f"{metrics['parameters_kept']:.1%} of the parameters", f"{metrics['macs_kept']:.1%} of the work"]
        facts += [f"val accuracy {metrics['best_val_accuracy']:.4f}"]
    sync_or_warn(config, model, out.parent.parent)


def combine(
    name: str, trained: Path, pruned: Path, images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS
) -> None:
    """Make one entry of `ensembles` from its members in the folders TRAINED and PRUNED."""
    from pipeline.artifacts import read_dataset, read_json, sha256
    from pipeline.stages.ensemble import Member, metrics, pruned_metrics
    from pipeline.stages.ensemble import combine as run
    from pipeline.tracking import sync_or_warn
    from pipeline.training import checkpoint

    config = load(params)
    if name not in config.ensembles:
        raise ValueError(f"{params} has no ensemble {name!r}; it has: {', '.join(config.ensembles) or 'none'}")

    def member(folder: Path) -> Member:
        return Member(*checkpoint.load(folder / "checkpoint.safetensors"), read_json(folder / "metrics.json"))

    dataset = read_dataset(images, splits)
    with summary(f"combine {name}") as facts:
        whole = {member_name: member(trained / member_name) for member_name in config.ensembles[name].members}
        narrow = {member_name: member(pruned / member_name) for member_name in whole}
        network, card = run(whole)
        checkpoint.save(out / "checkpoint.safetensors", network, card)
        pruned_network, pruned_card = run(narrow)
        checkpoint.save(out / "pruned.safetensors", pruned_network, pruned_card)
        measured = metrics(network, card, whole, dataset)
        measured["prune"] = pruned_metrics(pruned_network, pruned_card, narrow, dataset)
        _write_metrics(out, measured, out / "checkpoint.safetensors", splits=sha256(splits))
        facts += [f"{len(whole)} members", f"val accuracy {measured['best_val_accuracy']:.4f}"]
        facts += [f"pruned {measured['prune']['best_val_accuracy']:.4f}"]
    sync_or_warn(config, name, out.parent.parent)


def export(
    model: str, source: Path, pruned: Path, images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS
) -> None:
    """Export the trained network SOURCE and its PRUNED version to ONNX and prove that they agree with torch."""
    from pipeline.artifacts import read_dataset
    from pipeline.stages.export import export as run
    from pipeline.tracking import sync_or_warn
    from pipeline.training import checkpoint

    config = load(params)
    val_images, val_labels = read_dataset(images, splits).of("val")
    with summary(f"export {model}") as facts:
        made = {}
        for variant, path in (("fp32", source), ("pruned", pruned)):
            network, card = checkpoint.load(path)
            made[variant] = run(network, card, val_images, val_labels, config.export, out / f"{variant}.onnx")
            facts += [f"{variant} within {made[variant]['largest_difference']:.1e} of torch"]
        _write_metrics(out, made, source)
    sync_or_warn(config, model, out.parent.parent)


def quantize(
    model: str, checkpoint: Path, source: Path, images: Path, splits: Path, out: Path,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Quantize the ONNX files in the folder SOURCE to int8."""
    from pipeline.artifacts import read_dataset
    from pipeline.stages.quantize import quantize as run
    from pipeline.tracking import sync_or_warn

    config = load(params)
    dataset = read_dataset(images, splits)
    with summary(f"quantize {model}") as facts:
        made = {}
        for variant, quantized in (("fp32", "int8"), ("pruned", "pruned_int8")):
            target = out / f"{quantized}.onnx"
            made[quantized] = run(source / f"{variant}.onnx", target, dataset, config.quantize)
            if made[quantized]["quantized_layers"]:
                facts += [f"{quantized} agrees with {variant} at {made[quantized]['agreement']:.2%}"]
            else:
                facts += [f"{quantized} is a copy of {variant}, which has nothing to quantize"]
        _write_metrics(out, made, checkpoint)
    sync_or_warn(config, model, out.parent.parent)


def evaluate(
    model: str, checkpoint: Path, exported: Path, quantized: Path, images: Path, splits: Path, out: Path,
    history: Annotated[Path | None, typer.Option(help="What training wrote, for the learning curves.")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Score the trained network and its variants on the test split."""
    from pipeline.artifacts import read_dataset, read_table, write_table
    from pipeline.evaluation.plots import learning_curves, save
    from pipeline.stages.evaluate import evaluate as run
    from pipeline.tracking import sync_or_warn
    from pipeline.training.checkpoint import load as load_checkpoint

    config = load(params)
    with summary(f"evaluate {model}") as facts:
        network, card = load_checkpoint(checkpoint)
        files = {path.stem: path for folder in (exported, quantized) for path in sorted(folder.glob("*.onnx"))}
        result = run(model, network, card, files, read_dataset(images, splits), config.evaluate)
        _write_metrics(out, result.metrics, checkpoint)
        write_table(out / "predictions.parquet", result.predictions)
        write_table(out / "per_class.csv", result.per_class)
        for name, picture in result.pictures.items():
            save(picture, out / f"{name}.png")
        if history is not None:
            save(learning_curves(read_table(history), model), out / "curves.png")
        low, high = result.metrics["accuracy_low"], result.metrics["accuracy_high"]
        facts += [f"test accuracy {result.metrics['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f})"]
    sync_or_warn(config, model, out.parent.parent)


def audit(trained: Path, images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """List the labels that the best network in the folder TRAINED contradicts."""
    from pipeline.artifacts import read_dataset, read_json, write_table
    from pipeline.evaluation.plots import save
    from pipeline.stages.audit import audit as run
    from pipeline.training import checkpoint
    from pipeline.training.device import choose_device

    config = load(params)
    with summary("audit") as facts:
        accuracies = {name: read_json(trained / name / "metrics.json")["best_val_accuracy"] for name in config.models}
        best = max(accuracies, key=accuracies.__getitem__)
        network, card = checkpoint.load(trained / best / "checkpoint.safetensors")
        found = run(best, network, card, read_dataset(images, splits), config.audit, choose_device("auto"))
        write_table(out / "suspects.csv", found.suspects)
        save(found.picture, out / "suspects.png")
        facts += [f"labels that {best} contradicts: {len(found.suspects):,} ({out / 'suspects.csv'})"]


def benchmark(
    exported: Path, quantized: Path, evaluated: Path, images: Path, splits: Path, out: Path, picture: Path,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Time every variant of every model, on a quiet machine."""
    import pandas as pd

    from pipeline.artifacts import LINEAGE, VARIANTS, read_dataset, read_json, write_json
    from pipeline.evaluation.plots import pareto, save
    from pipeline.stages.benchmark import benchmark as run
    from pipeline.tracking import sync_or_warn

    config = load(params)
    files, known = {}, {}
    for model in config.everything:
        tested = read_json(evaluated / model / "metrics.json")
        validated = read_json(exported / model / "metrics.json") | read_json(quantized / model / "metrics.json")
        for variant in VARIANTS:
            folder = quantized if "int8" in variant else exported
            files[model, variant] = folder / model / f"{variant}.onnx"
            known[model, variant] = {
                **tested["variants"][variant],
                "val_accuracy": validated[variant]["val_accuracy"],
                **read_json(evaluated / model / LINEAGE),
            }
    with summary("benchmark") as facts:
        val_images, _ = read_dataset(images, splits).of("val")
        result = run(files, known, val_images, config.benchmark)
        write_json(out, result)
        save(pareto(pd.DataFrame(result["variants"])), picture)
        facts += [f"{len(files)} variants", f"{config.benchmark.threads} thread(s) of {result['hardware']}"]
    for model in config.everything:
        sync_or_warn(config, model, out.parent.parent)


def report(artifacts: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Write one self-contained HTML page of everything in the folder ARTIFACTS."""
    from pipeline.stages.report import render

    config = load(params)
    with summary("report") as facts:
        page = render(config, artifacts)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page)
        facts += [f"{out} ({len(page) / 1e6:.1f} MB)"]
