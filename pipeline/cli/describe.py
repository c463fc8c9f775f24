"""`describe`: what a network is made of, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.options import DEFAULT_ARTIFACTS, DEFAULT_PARAMS, Artifacts, ParamsFile
from pipeline.config import Params, architectures, load
from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

HEADER = ("layer", "type", "output", "parameters", "MACs")
NOTE = "MACs: multiplications with an addition, in convolutions, dense layers and attention; the rest is not counted"


def describe(
    model: Annotated[str, typer.Argument(help="An entry of `models` or `ensembles`, or the name of an architecture.")],
    classes: Annotated[
        int | None, typer.Option(min=2, help="Number of classes; else that of the images, or 10 before `split`.")
    ] = None,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Print a model's layers with their output shapes, parameters and work; nothing is trained or downloaded."""
    config = load(params)
    members = _members(config, model)
    classes = classes or _classes(artifacts / "split" / "splits.parquet")
    sums = [_print(name, *member, config.ingest.image_size, classes) for name, member in members.items()]
    if model in config.ensembles:
        parameters, macs = (sum(column) for column in zip(*sums, strict=True))
        print(f"\n{model}: {len(sums)} members, {parameters:,} parameters, {macs:,} MACs an image")
    print(f"\n{NOTE}")


def _members(config: Params, model: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Architecture and options of each network that MODEL consists of: one, or an ensemble's members."""
    names = config.ensembles[model].members if model in config.ensembles else [model]
    if model in config.models or model in config.ensembles:
        return {name: (config.models[name].architecture, config.models[name].options) for name in names}
    if model not in architectures():
        known = [*config.models, *config.ensembles]
        raise UserError(
            f"there is no model {model!r}: give one of params.yaml ({', '.join(known)}) or an architecture "
            f"({', '.join(architectures())})"
        )
    return {model: (model, {})}


def _classes(splits: Path) -> int:
    from pipeline.artifacts import read_table

    return read_table(splits)["class"].nunique() if splits.exists() else 10


def _print(name: str, architecture: str, options: Mapping[str, Any], size: int, classes: int) -> tuple[int, int]:
    """The table of one network; returns its parameters and its MACs."""
    import torch

    from pipeline.networks.architectures import build, learning_rates

    network = build(architecture, classes=classes, size=size, options=options).eval()
    rows = _layers(network, torch.zeros(1, 3, size, size))
    factors = learning_rates(network, architecture, options)
    learned = sum(p.numel() for key, p in network.named_parameters() if factors.get(key, 1) and p.requires_grad)
    parameters, macs = sum(p.numel() for p in network.parameters()), sum(row[4] for row in rows)
    made_of = "" if name == architecture else f" ({architecture})"
    print(f"{name}{made_of}: {size} x {size} RGB in, {classes} classes out\n\n{_table(rows)}\n")
    print(
        f"{parameters:,} parameters ({learned:,} of them learn), {4 * parameters / 1e6:.2f} MB as float32, "
        f"{macs:,} MACs an image"
    )
    return parameters, macs


def _layers(network: nn.Module, images_NCHW: torch.Tensor) -> list[tuple[str, str, str, int, int]]:
    """A row for each call of a module without modules in it, in the order of the calls, and one for what lies between:
    parameters and work of no such module."""
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    started: dict[str, int] = {}
    rows: list[tuple[str, str, str, int, int]] = []
    seen: set[int] = set()

    def parameters_of(module: nn.Module) -> int:
        new = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
        seen.update(new)
        return sum(new.values())

    def watch(name: str, module: nn.Module) -> None:
        def before(module: nn.Module, inputs: object) -> None:
            started[name] = counter.get_total_flops()

        def after(module: nn.Module, inputs: object, output: object) -> None:
            made = output[0] if isinstance(output, tuple) else output  # attention also gives its weights, or None
            shape = " x ".join(map(str, made.shape[1:])) if isinstance(made, torch.Tensor) else ""
            macs = (counter.get_total_flops() - started[name]) // 2
            rows.append((name, type(module).__name__, shape, parameters_of(module), macs))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    inside_attention = {
        part for m in network.modules() if isinstance(m, nn.MultiheadAttention) for part in m.children()
    }
    for name, module in network.named_modules():
        leaf = not list(module.children()) and module not in inside_attention
        if (leaf and not isinstance(module, nn.Identity)) or isinstance(
            module, nn.MultiheadAttention
        ):  # which does not call the modules in it
            watch(name, module)
    with counter:
        network(images_NCHW)
    parameters = sum(p.numel() for p in network.parameters()) - sum(row[3] for row in rows)
    macs = counter.get_total_flops() // 2 - sum(row[4] for row in rows)
    return [*rows, ("", "outside of layers", "", parameters, macs)] if parameters or macs else rows


def _table(rows: list[tuple[str, str, str, int, int]]) -> str:
    lines = [HEADER, *((*row[:3], f"{row[3]:,}", f"{row[4]:,}") for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i > 2 else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
