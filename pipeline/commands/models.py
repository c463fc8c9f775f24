"""The shell of the stages that take trained models: combine, export, quantize, evaluate, audit, benchmark, report."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile, load, summary, write_metrics
from pipeline.errors import UserError


def combine(
    name: str, trained: Path, pruned: Path, images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS
) -> None:
    """Make one entry of `ensembles` from its members in the folders TRAINED and PRUNED."""
    from pipeline.artifacts import read_dataset, read_json, sha256
    from pipeline.networks import weights
    from pipeline.stages.ensemble import Member, metrics, pruned_metrics
    from pipeline.stages.ensemble import combine as run
    from pipeline.tracking import sync_or_warn
    from pipeline.training.device import choose_device

    config = load(params)
    if name not in config.ensembles:
        raise UserError(f"{params} has no ensemble {name!r}; it has: {', '.join(config.ensembles) or 'none'}")

    def member(folder: Path) -> Member:
        return Member(*weights.load(folder / "checkpoint.safetensors"), read_json(folder / "metrics.json"))

    dataset, device = read_dataset(images, splits), choose_device(config.device(name))
    with summary(f"combine {name}") as facts:
        whole = {member_name: member(trained / member_name) for member_name in config.ensembles[name].members}
        narrow = {member_name: member(pruned / member_name) for member_name in whole}
        network, card = run(whole)
        weights.save(out / "checkpoint.safetensors", network, card)
        pruned_network, pruned_card = run(narrow)
        weights.save(out / "pruned.safetensors", pruned_network, pruned_card)
        measured = metrics(network, card, whole, dataset, device)
        measured["prune"] = pruned_metrics(pruned_network, pruned_card, narrow, dataset, device)
        write_metrics(out, measured, out / "checkpoint.safetensors", splits=sha256(splits))
        facts += [f"{len(whole)} members", f"val accuracy {measured['best_val_accuracy']:.4f}"]
        facts += [f"pruned {measured['prune']['best_val_accuracy']:.4f}"]
    sync_or_warn(config, name, out.parent.parent)


def export(
    model: str, source: Path, pruned: Path, images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS
) -> None:
    """Export the trained network SOURCE and its PRUNED version to ONNX and prove that they agree with torch."""
    from pipeline.artifacts import read_dataset
    from pipeline.networks import weights
    from pipeline.stages.export import export as run
    from pipeline.tracking import sync_or_warn

    config = load(params)
    val_images, val_labels = read_dataset(images, splits).of("val")
    with summary(f"export {model}") as facts:
        made = {}
        for variant, path in (("fp32", source), ("pruned", pruned)):
            network, card = weights.load(path)
            made[variant] = run(network, card, val_images, val_labels, config.export, out / f"{variant}.onnx")
            facts += [f"{variant} within {made[variant]['largest_difference']:.1e} of torch"]
        write_metrics(out, made, source)
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
        write_metrics(out, made, checkpoint)
    sync_or_warn(config, model, out.parent.parent)


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
