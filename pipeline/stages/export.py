"""`export@MODEL`: torch to ONNX, preprocessing inside the graph, agreement with torch proved on validation images."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from pipeline import layout
from pipeline.artifacts import Images, ModelCard, read_dataset, write_metrics, write_whole
from pipeline.config import Export, Params
from pipeline.errors import UserError
from pipeline.evaluation.metrics import accuracy, agreement
from pipeline.inference.predictor import Predictor
from pipeline.networks import weights
from pipeline.networks.deployable import Deployable, probabilities


def run(config: Params, name: str) -> list[str]:
    """Export the trained network and its pruned version."""
    stage = config.weights_stage(name)
    source = layout.checkpoint(stage, name)
    pruned = layout.pruned_ensemble(name) if stage == "ensemble" else layout.checkpoint("prune", name)
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
    by_torch = probabilities(network, card, images_NHWC, torch.device("cpu"))
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
    model = program.model_proto  # made again each time that it is asked for
    graph = model.graph
    # The exporter writes source paths and stack traces of this machine into the file: take them out
    for part in [model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output]:
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(model, {"card": card.to_json()})  # its classes, and how to prepare an image
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, model.SerializeToString())
    by_onnx = Predictor(path).probabilities(images_NHWC)
    difference = float(np.abs(by_torch - by_onnx).max())
    if not difference <= config.tolerance:  # NaN is not either
        sentence = f"{path} differs from torch by {difference:.2g} in a probability"
        raise UserError(f"{sentence}, more than export.tolerance {config.tolerance:g}")
    return {
        "val_accuracy": accuracy(by_onnx, labels),
        "agreement": agreement(by_torch, by_onnx),
        "largest_difference": difference,
    }
