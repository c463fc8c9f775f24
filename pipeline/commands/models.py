"""The shell of the stages that take trained models: combine, export, quantize, evaluate, audit, benchmark, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile, load, summary, write_metrics


def evaluate(
    model: str, trained: Path, exported: Path, quantized: Path, images: Path, splits: Path, out: Path,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Score the network in the folder TRAINED, its other seeds and its variants on the test split.

    Without `seeds/` there it is an ensemble, which has neither seeds nor learning curves.
    """
    from pipeline.artifacts import read_dataset, read_table, write_table
    from pipeline.evaluation.plots import learning_curves, save
    from pipeline.networks.weights import load as load_weights
    from pipeline.stages.evaluate import evaluate as run
    from pipeline.tracking import sync_or_warn
    from pipeline.training.device import choose_device

    config = load(params)
    with summary(f"evaluate {model}") as facts:
        checkpoint = trained / "checkpoint.safetensors"
        network, card = load_weights(checkpoint)
        listed = trained / "seeds" / "seeds.csv"
        seeds = read_table(listed) if listed.exists() else None
        others = {} if seeds is None else {
            seed: trained / "seeds" / f"seed-{seed}.safetensors" for seed in seeds["seed"][~seeds["shipped"]]
        }  # fmt: skip
        files = {path.stem: path for folder in (exported, quantized) for path in sorted(folder.glob("*.onnx"))}
        dataset, device = read_dataset(images, splits), choose_device(config.device(model))
        result = run(model, network, card, seeds, others, files, dataset, config.evaluate, device)
        write_metrics(out, result.metrics, checkpoint)
        write_table(out / "predictions.parquet", result.predictions)
        write_table(out / "per_class.csv", result.per_class)
        for name, picture in result.pictures.items():
            save(picture, out / f"{name}.png")
        if result.seeds is not None:
            write_table(out / "seeds.csv", result.seeds)
            save(learning_curves(read_table(trained / "history.csv"), result.seeds, model), out / "curves.png")
        facts.extend(_accuracy_in_words(result.metrics))
    sync_or_warn(config, model, out.parent.parent)


def _accuracy_in_words(metrics: dict[str, Any]) -> list[str]:
    """Each interval with what it is over: other test images, or other trainings."""
    low, high, seeds = metrics["accuracy_low"], metrics["accuracy_high"], metrics["seeds"]
    words = [f"test accuracy {metrics['accuracy']:.4f} (95 % interval over images {low:.4f} to {high:.4f})"]
    if seeds["n"] > 1:
        mean, low, high = (seeds[f"test_accuracy_{what}"] for what in ("mean", "low", "high"))
        words += [f"mean of {seeds['n']} seeds {mean:.4f} (95 % interval over seeds {low:.4f} to {high:.4f})"]
    return words


def audit(trained: Path, images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """List the labels that the best network in the folder TRAINED contradicts."""
    from pipeline.artifacts import read_dataset, read_json, write_table
    from pipeline.evaluation.plots import save
    from pipeline.networks import weights
    from pipeline.stages.audit import audit as run
    from pipeline.training.device import choose_device

    config = load(params)
    with summary("audit") as facts:
        accuracies = {name: read_json(trained / name / "metrics.json")["best_val_accuracy"] for name in config.models}
        best = max(accuracies, key=accuracies.__getitem__)
        network, card = weights.load(trained / best / "checkpoint.safetensors")
        found = run(best, network, card, read_dataset(images, splits), config.audit, choose_device(config.device(best)))
        write_table(out / "suspects.csv", found.suspects)
        save(found.picture, out / "suspects.png")
        facts += [f"labels that {best} contradicts: {len(found.suspects):,} ({out / 'suspects.csv'})"]


def report(artifacts: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Write one self-contained HTML page of everything in the folder ARTIFACTS."""
    from pipeline.stages.report import render

    config = load(params)
    with summary("report") as facts:
        page = render(config, artifacts)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
        facts += [f"{out} ({len(page) / 1e6:.1f} MB)"]
