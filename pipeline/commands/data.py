"""The shell of the data stages: ingest, validate, split, augment."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile, summary
from pipeline.config import load


def ingest(
    images: Path, manifest: Path, quarantine: Path, preprocessing: Path, params: ParamsFile = DEFAULT_PARAMS
) -> None:
    """Read the source, decode and measure every image."""
    from pipeline.artifacts import write_json, write_table
    from pipeline.stages.ingest import ingest as run
    from pipeline.stages.ingest import preprocessing_of

    config = load(params).ingest
    with summary("ingest") as facts:
        found = run(config, images)
        write_table(manifest, found.manifest)
        write_table(quarantine, found.quarantine)
        write_json(preprocessing, preprocessing_of(config).record())
        classes = found.manifest["class"].nunique()
        facts += [f"{len(found.manifest):,} images", f"{classes} classes", f"{len(found.quarantine):,} set aside"]
    if len(found.quarantine):
        first = found.quarantine.iloc[0]
        said = (
            f"{len(found.quarantine):,} of {len(found.quarantine) + len(found.manifest):,} files cannot be used, first "
            f"{Path(config.root) / first['path']}: {first['reason']} (all of them: {quarantine})"
        )
        if config.strict:
            raise ValueError(f"{said}: repair or remove them, or set ingest.strict to false to go on without them")
        print(f"warning: {said}", file=sys.stderr)
        lost = sorted(set(found.quarantine["class"].astype(str)) - set(found.manifest["class"]))
        if lost:
            raise ValueError(f"no image of class {lost[0]!r} can be read ({quarantine} says why): mend or remove it")


def validate(manifest: Path, quarantine: Path, report: Path, docs: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Judge the manifest with Great Expectations."""
    from pipeline.artifacts import read_table, write_json
    from pipeline.stages.validate import as_report, raise_critical
    from pipeline.stages.validate import validate as run

    config = load(params).validate_
    with summary("validate") as facts:
        findings = run(read_table(manifest), read_table(quarantine), config, docs)
        write_json(report, as_report(findings))
        facts += [f"{sum(f.passed for f in findings)} of {len(findings)} checks passed", f"Data Docs in {docs}"]
    for finding in findings:
        if not finding.passed:
            print(f"{finding.severity}: not so at {finding.count:,} images: {finding.says}", file=sys.stderr)
    raise_critical(findings)


def split(manifest: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Put every image into train, val or test."""
    from pipeline.artifacts import SPLITS, read_table, write_table
    from pipeline.stages.split import split as run

    with summary("split") as facts:
        table = run(read_table(manifest), load(params).split)
        write_table(out, table)
        facts += [f"{(table['split'] == name).sum():,} {name}" for name in SPLITS]


def augment(images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Write normalization statistics, class balance, the resolved policy and a preview into the folder OUT."""
    from pipeline.artifacts import read_dataset, write_json, write_table
    from pipeline.evaluation.plots import save
    from pipeline.stages.augment import augment as run

    config = load(params).augment
    with summary("augment") as facts:
        made = run(read_dataset(images, splits), config)
        knobs = asdict(made.policy)
        balance = made.balance
        weighing = {"class_weights": balance.class_weights, "logit_offsets": balance.logit_offsets}
        write_json(out / "policy.json", {"policy": knobs, **weighing})
        write_json(out / "norm_stats.json", {"mean": made.mean, "std": made.std})
        write_table(out / "sample_index.parquet", balance.sample_index)
        save(made.preview, out / "preview.png")
        on = [f"{name} {value:g}" for name, value in knobs.items() if value]
        facts += [f"policy {config.policy} ({', '.join(on) or 'nothing'})", f"balance {config.balance}"]
