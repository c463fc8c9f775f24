"""`ingest`: read the source, decode every image once on all cores, measure it, set aside what cannot be read."""

import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline import layout
from pipeline.artifacts import unreadable, write_images, write_json, write_table
from pipeline.bit_depth import UNDECIDED, WIDEST, whites
from pipeline.config import Ingest, Params
from pipeline.datasets import Entry, find
from pipeline.decoding import FOUND, Block, decode
from pipeline.errors import UserError
from pipeline.preprocessing import Preprocessing

BLOCK = 256  # images that travel between processes at once, at most
BLOCK_BYTES = 1 << 23  # and what they may weigh: measuring takes several times as much
AHEAD = 2  # blocks a worker that may wait: more would only fill the memory


@dataclass(frozen=True)
class Ingested:
    """`manifest`: a row per image, in the array's order. `quarantine`: path, class and reason of the others and of
    class folders without images. `notes`: sentences for people. `preprocessing`: as configured, with what is white."""

    manifest: pd.DataFrame
    quarantine: pd.DataFrame
    notes: list[str]
    preprocessing: Preprocessing


def run(config: Params) -> list[str]:
    found = ingest(config.ingest, layout.IMAGES)
    write_table(layout.MANIFEST, found.manifest)
    write_table(layout.QUARANTINE, found.quarantine)
    write_json(layout.PREPROCESSING, found.preprocessing.record())
    for note in found.notes:
        print(f"note: {note}")
    images, aside = len(found.manifest), unreadable(found.quarantine)
    if len(aside):
        path, _, reason = aside.iloc[0]
        said = f"{len(aside):,} of {len(aside) + images:,} files cannot be used (see {layout.QUARANTINE})"
        said += f", first {Path(config.ingest.root) / path}: {reason}"
        if config.ingest.strict:
            raise UserError(f"{said}: repair or remove them, or set ingest.strict to false to go on without them")
        print(f"warning: {said}", file=sys.stderr)
    return [f"{images:,} images", f"{found.manifest['class'].nunique()} classes", f"{len(aside):,} set aside"]


def ingest(config: Ingest, images: Path) -> Ingested:
    """Write all images of the source to `images` (uint8 .npy [N, size, size, 3]) and return their manifest.
    Its columns: those of `decoding.FOUND` and of `inspection.measures.measure`. What is white in more than 8 bits, and
    which images are on another scale, is known when all are decoded: then all are once more, unless white is 65535."""
    images.parent.mkdir(parents=True, exist_ok=True)
    prepared = Preprocessing(config.image_size, config.resize, tuple(config.background))
    workers = config.workers or os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(prefix=".unpacked-", dir=images.parent) as scratch,
        # spawn: the parent may hold threads (progress bars, torch), which do not survive a fork
        ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else ThreadPoolExecutor(1) as pool,
    ):
        for _ in range(workers):  # they import what they need while the source is searched
            pool.submit(decode, [], prepared)
        source = find(config.source, Path(config.root), Path(scratch), config.labels)
        step = max(1, min(BLOCK, BLOCK_BYTES // (config.image_size**2 * 3)))
        jobs = [source.entries[i : i + step] for i in range(0, len(source.entries), step)]
        blocks = _written(jobs, replace(prepared, white=UNDECIDED), images, pool, AHEAD * workers)
        white, misfits = whites([peak for block in blocks for peak in block.peaks])
        prepared = replace(prepared, white=white)
        if misfits or set(white.values()) - {WIDEST}:
            jobs = [[replace(one, fault=one.fault or misfits.get(one.path, "")) for one in job] for job in jobs]
            blocks = _written(jobs, prepared, images, pool, AHEAD * workers)
    notes = [*source.notes, *(f"white is {value:,} in {kind} images" for kind, value in sorted(white.items()))]
    notes += [f"{len(misfits):,} images are set aside, first {path}: {misfits[path]}" for path in list(misfits)[:1]]
    quarantine = pd.DataFrame(chain(*(block.quarantined for block in blocks)), columns=["path", "class", "reason"])
    columns = {name: [block.columns[name] for block in blocks] for name in blocks[0].columns}
    arrays = {name: np.concatenate(parts) for name, parts in columns.items() if isinstance(parts[0], np.ndarray)}
    manifest = pd.DataFrame({name: list(chain(*columns[name])) for name in FOUND} | arrays)
    return Ingested(manifest, quarantine, notes, prepared)


def _written(jobs: list[list[Entry]], how: Preprocessing, images: Path, pool: Executor, ahead: int) -> list[Block]:
    """All blocks in the order of `jobs`, whatever the number of processes, without their pixels: `images` has them."""
    blocks = []
    coming = (pool.submit(decode, job, how) for job in jobs)
    waiting = deque(islice(coming, ahead))

    def pixels() -> Iterator[np.ndarray]:
        with tqdm(total=sum(map(len, jobs)), desc="ingest", unit=" images", mininterval=1, disable=None) as bar:
            while waiting:
                block = waiting.popleft().result()
                waiting.extend(islice(coming, 1))
                yield block.pixels_NHWC
                blocks.append(replace(block, pixels_NHWC=block.pixels_NHWC[:0].copy()))
                bar.update(len(block.pixels_NHWC) + len(block.quarantined))

    write_images(images, how.size, pixels())
    return blocks
