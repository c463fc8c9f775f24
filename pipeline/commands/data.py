"""The shell of the data stages: ingest, validate, split, augment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile, load, summary
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.inspection.findings import Finding


def ingest(
    images: Path, manifest: Path, quarantine: Path, preprocessing: Path, params: ParamsFile = DEFAULT_PARAMS
) -> None:
    """Read the source, decode and measure every image."""
    from pipeline.artifacts import unreadable, write_json, write_table
    from pipeline.stages.ingest import ingest as run

    config = load(params).ingest
    with summary("ingest") as facts:
        found = run(config, images)
        write_table(manifest, found.manifest)
        write_table(quarantine, found.quarantine)
        write_json(preprocessing, found.preprocessing.record())
        classes, aside = found.manifest["class"].nunique(), unreadable(found.quarantine)
        facts += [f"{len(found.manifest):,} images", f"{classes} classes", f"{len(aside):,} set aside"]
    for note in found.notes:
        print(f"note: {note}")
    if len(aside):
        first = aside.iloc[0]
        said = (
            f"{len(aside):,} of {len(aside) + len(found.manifest):,} files cannot be used, first "
            f"{Path(config.root) / first['path']}: {first['reason']} (all of them: {quarantine})"
        )
        if config.strict:
            raise UserError(f"{said}: repair or remove them, or set ingest.strict to false to go on without them")
        print(f"warning: {said}", file=sys.stderr)


def validate(
    manifest: Path, quarantine: Path, images: Path, reference: Path, report: Path, pairs: Path, page: Path, docs: Path,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:  # fmt: skip
    """Judge the data with Great Expectations; REFERENCE is the folder of the accepted profile."""
    from pipeline.artifacts import read_images, read_table, sha256, write_json, write_table
    from pipeline.inspection import findings, gallery
    from pipeline.inspection.drift import read_profile
    from pipeline.stages.validate import validate as run

    config = load(params).validate_
    accepted = read_profile(reference)
    aside, pixels = read_table(quarantine), read_images(images)
    with summary("validate") as facts:
        result = run(read_table(manifest), aside, pixels, accepted, config, docs)
        write_json(report, {"manifest": sha256(manifest), **findings.report(result.findings)})
        write_table(pairs, result.pairs)
        html = gallery.page(result.findings, result.images, result.pairs, aside, pixels)
        page.write_text(html, encoding="utf-8")
        facts += [
            f"{sum(f.passed for f in result.findings)} of {len(result.findings)} checks passed",
            f"look at {page}",
        ]
    say(result.findings)
    findings.raise_critical(result.findings)


def say(findings: list[Finding]) -> None:
    """A line for each check that failed, the critical ones first."""
    failed = [finding for finding in findings if not finding.passed]
    for finding in sorted(failed, key=lambda finding: finding.severity):
        named = ", ".join(finding.first) + (", ..." if finding.count > len(finding.first) else "")
        print(
            f"{finding.severity}: {finding.check}: {finding.count:,} of {finding.of:,} ({named}); "
            f"wanted: {finding.says}",
            file=sys.stderr,
        )


def split(manifest: Path, pairs: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Put every image into train, val or test; those that OUT holds already stay where they are."""
    from pipeline.artifacts import LEFT_OUT, SPLITS, read_table, write_table
    from pipeline.stages.split import split as run

    with summary("split") as facts:
        earlier = read_table(out) if out.exists() else None
        table = run(read_table(manifest), read_table(pairs), earlier, load(params).split)
        write_table(out, table)
        facts += [f"{(table['split'] == name).sum():,} {name}" for name in (*SPLITS, LEFT_OUT)]


def augment(images: Path, splits: Path, out: Path, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Write normalization statistics, class balance, the resolved policy and a preview into the folder OUT."""
    from pipeline.artifacts import read_dataset, write_json, write_table
    from pipeline.evaluation.plots import save
    from pipeline.stages.augment import augment as run

    config = load(params).augment
    with summary("augment") as facts:
        made = run(read_dataset(images, splits), config)
        knobs = made.policy.model_dump()
        balance = made.balance
        weighing = {"class_weights": balance.class_weights, "logit_offsets": balance.logit_offsets}
        write_json(out / "policy.json", {"policy": knobs, **weighing})
        write_json(out / "norm_stats.json", {"mean": made.mean, "std": made.std})
        write_table(out / "sample_index.parquet", balance.sample_index)
        save(made.preview, out / "preview.png")
        on = [f"{name} {value:g}" for name, value in knobs.items() if value]
        facts += [f"policy {config.policy} ({', '.join(on) or 'nothing'})", f"balance {config.balance}"]
