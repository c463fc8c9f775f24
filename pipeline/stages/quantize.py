"""`quantize@MODEL`: static int8 (QDQ) for ONNX Runtime, calibrated on training images.

The recipe was measured: per-channel weights, uint8 activations; preprocessing and the last layer stay float32,
which costs no time and keeps the classes. A network that is nothing but these is copied.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipeline import layout
from pipeline.artifacts import Dataset, opened, read_dataset, write_metrics, write_whole
from pipeline.config import Params, Quantize
from pipeline.evaluation.metrics import accuracy, agreement
from pipeline.inference.predictor import Predictor

OPERATORS = ["Conv", "Gemm", "Add", "Relu", "MaxPool", "Reshape"]
WEIGHTED = {"Conv", "Gemm", "MatMul"}
BATCH = 64


def run(config: Params, name: str) -> list[str]:
    """Quantize the exported network and its pruned version."""
    dataset, made, facts = read_dataset(), {}, []
    for variant, quantized in (("fp32", "int8"), ("pruned", "pruned_int8")):
        source, target = layout.onnx(variant, name), layout.onnx(quantized, name)
        made[quantized] = quantize(source, target, dataset, config.quantize)
        if made[quantized]["quantized_layers"]:
            facts.append(f"{quantized} agrees with {variant} at {made[quantized]['agreement']:.2%}")
        else:
            facts.append(f"{quantized} is a copy of {variant}, which has nothing to quantize")
    write_metrics("quantize", name, made, layout.checkpoint(config.weights_stage(name), name))
    return facts


def quantize(source: Path, path: Path, dataset: Dataset, config: Quantize) -> dict[str, Any]:
    """Write the int8 version of `source` to `path`; metrics on the validation images, agreement with `source`."""
    with opened(source) as file:
        model = onnx.load(file)
    layers = [node for node in inner_nodes(model) if node.op_type in WEIGHTED.intersection(OPERATORS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if layers:
        rows = np.random.default_rng(0).permutation(dataset.rows("train"))[: config.calibration_images]
        _write_int8(source, path, dataset.images_NHWC[rows])
        quantized = onnx.load(path)
        # Quantization drops the card
        onnx.helper.set_model_props(quantized, {prop.key: prop.value for prop in model.metadata_props})
        write_whole(path, quantized.SerializeToString())
    else:
        shutil.copyfile(source, path)
    images, labels = dataset.of("val")
    by_source, by_int8 = (Predictor(file).probabilities(images) for file in (source, path))
    return {
        "val_accuracy": accuracy(by_int8, labels),
        "agreement": agreement(by_source, by_int8),
        "quantized_layers": len(layers),
    }


def inner_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Those between the first and the last layers with weights, the first ones included.

    By the edges of the graph, not by its order: an ensemble has several first and several last layers.
    """
    behind: set[str] = set()
    ahead: set[str] = set()
    for node in model.graph.node:
        if node.op_type in WEIGHTED or behind.intersection(node.input):
            behind.update(node.output)
    for node in reversed(model.graph.node):
        if node.op_type in WEIGHTED or ahead.intersection(node.output):
            ahead.update(name for name in node.input if name)  # an input that is left out has no name
    return [node for node in model.graph.node if behind.intersection(node.output) & ahead]


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, images_NHWC: np.ndarray) -> None:
        self.batches = ({"image": images_NHWC[i : i + BATCH]} for i in range(0, len(images_NHWC), BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def _write_int8(source: Path, path: Path, images_NHWC: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(source), prepared)
        model = onnx.load(prepared)
        inner = {node.name for node in inner_nodes(model)}
        quantize_static(
            prepared,
            str(path),
            _Calibration(images_NHWC),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # signed ones lose the fusions of residual networks: 3 x slower
            weight_type=QuantType.QInt8,
            op_types_to_quantize=OPERATORS,
            nodes_to_exclude=[node.name for node in model.graph.node if node.name not in inner],
        )
