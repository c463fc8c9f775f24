"""`export@MODEL`: torch to ONNX, preprocessing inside the graph, agreement with torch proved on validation images."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from pipeline import layout
from pipeline.artifacts import Images, ModelCard, read_dataset, write_metrics
from pipeline.config import Export, Params
from pipeline.errors import UserError
from pipeline.evaluation.metrics import accuracy
from pipeline.inference.predictor import Predictor
from pipeline.networks import weights
from pipeline.networks.deployable import Deployable, probabilities


def run(config: Params, name: str) -> list[str]:
    """Export the trained network and its pruned version."""
    source = layout.checkpoint(config.maker(name), name)
    pruned = layout.pruned_ensemble(name) if config.maker(name) == "ensemble" else layout.checkpoint("prune", name)
    images, labels = read_dataset().of("val")
    made, facts = {}, []
    for variant, path in (("fp32", source), ("pruned", pruned)):
        network, card = weights.load(path)
        made[variant] = export(network, card, images, labels, config.export, layout.onnx(variant, name))
        facts.append(f"{variant} within {made[variant]['largest_difference']:.1e} of torch")
    write_metrics("export", name, made, source)
    return facts


def export(
    network: nn.Module, card: ModelCard, images_NHWC: Images, labels: np.ndarray, config: Export, path: Path
) -> dict[str, Any]:
    """Write the ONNX file to `path` and return its metrics.

    Input `image` uint8 [batch, size, size, 3]; outputs `logits` and `probabilities` float32 [batch, classes].
    Raises UserError when ONNX Runtime and torch disagree on the given (validation) images.
    """
    side = card.preprocessing.size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)  # of batch 2: the exporter bakes in a 1
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision's operators are not needed
    program = torch.onnx.export(
        Deployable(network, card).cpu().eval(),
        (example,),
        input_names=["image"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"image": {0: "batch"}},
        opset_version=config.opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(_described(_anonymous(program.model_proto), card), path)
    return {**_prove(path, network, card, images_NHWC, labels, config.tolerance), "size_bytes": path.stat().st_size}


def _prove(
    path: Path, network: nn.Module, card: ModelCard, images_NHWC: Images, labels: np.ndarray, tolerance: float
) -> dict[str, float]:
    by_torch = probabilities(network, card, images_NHWC, torch.device("cpu"))
    by_onnx = Predictor(path).probabilities(images_NHWC)
    difference = float(np.abs(by_torch - by_onnx).max())
    agreement = float((by_torch.argmax(axis=1) == by_onnx.argmax(axis=1)).mean())
    if math.isnan(difference) or difference > tolerance:
        raise UserError(
            f"{path} differs from torch by {difference:.2g} in a probability, more than export.tolerance {tolerance:g}"
        )
    return {
        "val_accuracy": accuracy(by_onnx, labels),
        "agreement": agreement,
        "largest_difference": difference,
        "compared_images": len(labels),
    }


def _anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter writes source paths and stack traces of this machine into the file: take them out."""
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output]:
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def _described(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """The file says by itself what its classes are and how to prepare an image."""
    onnx.helper.set_model_props(model, {"card": card.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model
