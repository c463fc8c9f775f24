"""The shell of `ingest`."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile, load, summary
from pipeline.errors import UserError


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
