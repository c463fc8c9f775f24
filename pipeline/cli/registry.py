"""`register`, `promote` and `track`: what MLflow is told by hand."""

from pipeline import layout
from pipeline.config import load
from pipeline.errors import UserError


def register() -> None:
    """Register the best candidate that keeps its budgets, as `challenger`."""
    from pipeline import registry

    config = load()
    version, row = registry.register(config)
    print(
        f"registered {config.registry.name} version {version} as challenger: {row['model']} {row['variant']}, "
        f"validation accuracy {row['val_accuracy']:.2%}, {row['size_mb']:.2f} MB, {row['latency_ms']:.2f} ms"
    )


def promote() -> None:
    """Make the challenger champion, if it beats the champion on the same test split."""
    from pipeline import registry
    from pipeline.artifacts import read_dataset, read_json, read_table
    from pipeline.preprocessing import Preprocessing

    config = load()
    preprocessing = Preprocessing.from_record(read_json(layout.PREPROCESSING))
    dataset = read_dataset()
    if not dataset.splits["sha256"].equals(read_table(layout.MANIFEST)["sha256"]):
        raise UserError(f"{layout.SPLITS} is not of the images in {layout.IMAGES}: run `dvc repro` first")
    decision = registry.promote(config, dataset, preprocessing)
    verb = "promoted: champion is now" if decision.promoted else "not promoted: champion stays"
    print(f"{verb} {config.registry.name} version {decision.champion} ({decision.reason})")


def track() -> None:
    """Send to MLflow whatever it has not got yet: after an outage, or when DVC restored stages from its cache."""
    from pipeline.tracking.server import connect
    from pipeline.tracking.sync import sync

    config, client = load(), connect()
    for model in config.names:
        if layout.checkpoint(config.weights_stage(model), model).exists():
            print(f"{model}: run {sync(client, config, model)} is up to date")
        else:
            print(f"{model}: not made yet")
