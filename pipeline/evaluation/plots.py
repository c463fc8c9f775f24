"""Pictures, drawn with matplotlib's object interface: no display, no global state, no time stamp in the file."""

import io
import textwrap
from contextlib import suppress
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text

from pipeline.artifacts import write_whole

# The first comes with matplotlib, and so does the last, which draws boxes
FONT, BOXES = "DejaVu Sans", "Last Resort High-Efficiency"
PALETTE = ["#3b6fb6", "#d9822b", "#3a9d5d", "#b5485d", "#7a5aa6", "#5f6b7a", "#c2a83e", "#2f9aa0"]


def save(figure: Figure, path: Path) -> None:
    write_whole(path, png(figure))


def png(figure: Figure, dpi: int = 110) -> bytes:
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        others = {family for character in text.get_text() if (family := _family(character)) not in (FONT, None)}
        text.set_fontfamily([FONT, *sorted(others)])
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, the same numbers give the same bytes
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def label(name: str) -> str:
    """A class's name for a picture: on one line, never a formula, and by its code where no font has a character."""
    shown = (c if c.isprintable() and _family(c) else c.encode("unicode_escape").decode() for c in name)
    return "".join(shown).replace("$", r"\$")


@cache
def _family(character: str) -> str | None:
    """The fonts that have a character: matplotlib's own, or the first of those that are installed."""
    if ord(character) in _characters(findfont(FONT)):
        return FONT
    fonts = _fonts()
    return next((family for family in sorted(fonts) if ord(character) in _characters(fonts[family])), None)


@cache
def _fonts() -> dict[str, str]:
    """The file of each family. matplotlib's list is as old as its cache: what was installed since is added."""
    for file in {*findSystemFonts()} - {entry.fname for entry in fontManager.ttflist}:
        with suppress(OSError, RuntimeError):  # no font that can be drawn with
            fontManager.addfont(file)
    return {entry.name: entry.fname for entry in fontManager.ttflist if entry.name != BOXES}


@cache
def _characters(file: str) -> frozenset[int]:
    return frozenset(get_font(file).get_charmap()) if Path(file).exists() else frozenset()  # the list may be an old one


def _axes(width: float, height: float, **settings: object) -> tuple[Figure, Axes]:
    """A figure with one diagram in it; `settings` are of matplotlib's Axes.set."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set(**settings)
    return figure, axes


def learning_curves(history: pd.DataFrame, seeds: pd.DataFrame, title: str) -> Figure:
    """Loss, accuracy, learning rate and gradient's norm by epoch: bold of the shipped seed, pale of the others."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    top_left, top_right, low_left, low_right = figure.subplots(2, 2, sharex=True, height_ratios=[2, 1]).ravel()
    shipped = seeds[seeds["shipped"]].iloc[0]
    others = [rows for seed, rows in history.groupby("seed") if seed != shipped["seed"]]
    bold = history[history["seed"] == shipped["seed"]]
    epoch, norm = bold["epoch"], bold["gradient_norm"]
    for axes, measure, corner in ((top_left, "loss", "upper right"), (top_right, "accuracy", "lower right")):
        for part, colour, name in (("train", PALETTE[0], "training, as augmented"), ("val", PALETTE[1], "validation")):
            for rows in others:
                axes.plot(rows["epoch"], rows[f"{part}_{measure}"], color=colour, linewidth=0.8, alpha=0.35)
            axes.plot(epoch, bold[f"{part}_{measure}"], color=colour, marker=".", label=name)
        axes.set(title=measure)
        axes.legend(fontsize=8, loc=corner)
    low_left.plot(epoch, bold["learning_rate"], color=PALETTE[5], marker=".")
    low_left.set(title="learning rate at the epoch's start", xlabel="epoch", ylim=(0, None))
    low_right.fill_between(epoch, norm, bold["gradient_norm_max"], color=PALETTE[2], alpha=0.2, linewidth=0)
    low_right.plot(epoch, norm, color=PALETTE[2], marker=".")
    low_right.set(title="gradient's norm before clipping: mean, largest", xlabel="epoch", ylim=(0, None))
    for axes in figure.axes:
        axes.axvline(shipped["best_epoch"], color="#999999", linewidth=1, linestyle=":")
        axes.grid(alpha=0.3)
    low_left.xaxis.get_major_locator().set_params(integer=True)
    pale = f"; pale: other seeds ({len(others)})" if others else ""
    figure.suptitle(f"{title}: seed {shipped['seed']}, best epoch {shipped['best_epoch']} (dotted){pale}")
    return figure


def learning_rates(found: pd.DataFrame, steepest: float, peak: float, title: str) -> Figure:
    """The range test: loss over learning rate, with the two suggestions."""
    top = 1.5 * float(found["smooth"].iloc[: max(1, len(found) // 2)].max())
    figure, axes = _axes(6.4, 4, xlabel="learning rate", ylabel="training loss", title=title)
    axes.plot(found["learning_rate"], found["loss"], color=PALETTE[0], alpha=0.25, label="loss of a batch")
    axes.plot(found["learning_rate"], found["smooth"], color=PALETTE[0], label="smoothed")
    for value, colour, name in ((steepest, PALETTE[2], "falls fastest"), (peak, PALETTE[1], "suggested")):
        axes.axvline(value, color=colour, linestyle="--", label=f"{name}: {value:.2g}")
    axes.set(xscale="log", ylim=(0, top))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def confusion(labels: np.ndarray, predicted: np.ndarray, class_names: tuple[str, ...], title: str) -> Figure:
    """Shares of each true class (a row), with the counts where they are legible, from indices of classes [N]."""
    counts = np.zeros((len(class_names), len(class_names)), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    side = min(3.5 + 0.42 * len(class_names), 14)
    figure, axes = _axes(side, side, xlabel="predicted", ylabel="true", title=title)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(class_names) <= 40:
        names = [label(name) for name in class_names]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(class_names) <= 20:
        for row, column in np.argwhere(counts):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=shade, fontsize=8)
    return figure


def reliability(table: pd.DataFrame, title: str) -> Figure:
    """Accuracy over confidence: on the diagonal a model is as often right as it says."""
    figure, axes = _axes(4.6, 4.2, xlabel="confidence", ylabel="accuracy", title=title, xlim=(0, 1.02), ylim=(0, 1.02))
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    axes.scatter(table["confidence"], table["accuracy"], s=20 + 400 * table["share"], color=PALETTE[0], alpha=0.8)
    axes.plot(table["confidence"], table["accuracy"], color=PALETTE[0], linewidth=1)
    axes.grid(alpha=0.3)
    return figure


def image_grid(images_NHWC: np.ndarray, captions: list[str], columns: int, title: str, side: float = 1.35) -> Figure:
    """Small pictures, each in a square of `side` inches with its caption above, row by row. All stand in one diagram:
    one each takes matplotlib many times as long."""
    rows, above = max(1, -(-len(captions) // columns)), 0.32 if any("\n" in text for text in captions) else 0.19
    width, height = side * columns, (side + above) * rows
    figure, axes = _axes(width, height + 0.4)
    figure.suptitle(textwrap.fill(title, round(12 * width)))
    for place, (image, caption) in enumerate(zip(images_NHWC, captions, strict=True)):
        row, column = divmod(place, columns)
        left, top = column * side, row * (side + above) + above
        axes.imshow(image, interpolation="nearest", extent=(left, left + 0.92 * side, top + 0.92 * side, top))
        axes.text(left + 0.46 * side, top - 0.03, caption, ha="center", va="bottom", fontsize=7)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.axis("off")
    return figure


def pareto(rows: pd.DataFrame) -> Figure:
    """Accuracy over latency at batch 1, a colour per model and a mark per variant; the size is the mark's area."""
    figure, axes = _axes(8, 4.6, xlabel="latency at batch 1, ms (median)", ylabel="test accuracy", xscale="log")
    axes.set(title="Accuracy against latency")
    marks = {"fp32": "o", "int8": "s", "pruned": "^", "pruned_int8": "D"}
    for colour, (model, group) in zip(cycle(PALETTE), rows.groupby("model", sort=False), strict=False):
        ordered = group.sort_values("latency_ms")
        axes.plot(ordered["latency_ms"], ordered["accuracy"], color=colour, alpha=0.5, linewidth=2, label=str(model))
        for variant, row in ordered.set_index("variant").iterrows():
            place, area = (row["latency_ms"], row["accuracy"]), 30 + 25 * np.sqrt(row["size_mb"])
            axes.scatter(*place, marker=marks[str(variant)], color=colour, s=area, edgecolor="white")
    for variant, mark in marks.items():
        axes.scatter([], [], marker=mark, color="#666666", label=variant)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def class_counts(table: pd.DataFrame, title: str) -> Figure:
    """Images per class, stacked by split: `table` has a row per class and a column per split."""
    figure, axes = _axes(8, 0.6 + 0.3 * min(len(table), 60), xlabel="images", title=title)
    left = np.zeros(len(table))
    for colour, split in zip(PALETTE, table.columns, strict=False):
        axes.barh(range(len(table)), table[split], left=left, color=colour, label=split)
        left += table[split].to_numpy()
    axes.set_yticks(range(len(table)), [label(name) for name in table.index])
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    return figure
