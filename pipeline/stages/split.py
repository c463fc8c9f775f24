"""`split`: every image into train, val or test, stratified by class; copies of one file stay together."""

from __future__ import annotations

import hashlib

import pandas as pd

from pipeline.config import Split


def split(manifest: pd.DataFrame, config: Split) -> pd.DataFrame:
    """A row per row of the manifest: path, class, split.

    Images are ranked within their class by a hash of seed and content, so that neither the order nor the names of the
    files matter. A split of the source's own is kept if `keep_source_splits`; the shares are of what is cut.
    Raises ValueError naming a class that is too small.
    """
    kept = manifest["source_split"].isin(("val", "test")) & config.keep_source_splits
    splits = manifest["source_split"].where(kept, "train")
    # The test split is cut first, so that another share for validation does not move it
    needed = {"test": config.test, "val": config.validation}
    wanted = {name: share for name, share in needed.items() if name not in set(splits)}
    for label, images in manifest[~kept].groupby("class"):
        ranked = sorted(set(images["sha256"]), key=lambda content: _rank(config.seed, content))
        counts = {name: max(1, round(share * len(ranked))) for name, share in wanted.items()}
        if sum(counts.values()) >= len(ranked):
            raise ValueError(
                f"class {label!r} has {len(ranked)} distinct images, too few for {' + '.join(['train', *wanted])}: "
                f"add images, or lower split.validation and split.test in params.yaml"
            )
        start = 0
        for name, count in counts.items():
            chosen = images["sha256"].isin(ranked[start : start + count])
            splits.loc[images.index[chosen]] = name
            start += count
    untrained = sorted(set(manifest["class"]) - set(manifest["class"][splits == "train"]))
    if untrained:
        raise ValueError(f"class {untrained[0]!r} has no image left to train on: add images to it or remove the class")
    return manifest[["path", "class"]].assign(split=splits)


def _rank(seed: int, content: str) -> str:
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()
