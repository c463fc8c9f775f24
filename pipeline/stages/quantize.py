"""`quantize@MODEL`: static int8 (QDQ) for ONNX Runtime, calibrated on training images.

The recipe was measured (FACTS): per-channel weights, uint8 activations; preprocessing and the last layer stay float32,
which costs no time and keeps the classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Quantize
from pipeline.evaluation.metrics import accuracy
from pipeline.inference.predictor import Predictor

OPERATORS = ["Conv", "Gemm", "Add", "Relu", "MaxPool", "Reshape"]
BATCH = 64


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, images_NHWC: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = (images_NHWC[i : i + BATCH] for i in range(0, len(images_NHWC), BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def quantize(source: Path, path: Path, dataset: Dataset, config: Quantize) -> dict[str, Any]:
    """Write the int8 version of `source` to `path`; metrics on the validation images, agreement with `source`."""
    rows = np.random.default_rng(0).permutation(dataset.rows("train"))[: config.calibration_images]
    calibration_NHWC = dataset.images_NHWC[rows]
    val_NHWC, val_labels = dataset.of("val")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared))
        model = onnx.load(prepared)
        quantize_static(
            str(prepared),
            str(path),
            _Calibration(calibration_NHWC),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # signed ones lose the fusions of residual networks: 3 x slower
            weight_type=QuantType.QInt8,
            op_types_to_quantize=OPERATORS,
            nodes_to_exclude=_kept_in_float(model),
        )
    _keep_card(source, path)
    before, after = Predictor(source), Predictor(path)
    by_source, by_int8 = before.probabilities(val_NHWC), after.probabilities(val_NHWC)
    return {
        "val_accuracy": accuracy(by_int8, val_labels),
        "agreement": float((by_source.argmax(axis=1) == by_int8.argmax(axis=1)).mean()),
        "size_bytes": path.stat().st_size,
    }


def _kept_in_float(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first convolution, and of the last dense layer."""
    nodes = list(model.graph.node)
    first_conv = next(i for i, node in enumerate(nodes) if node.op_type == "Conv")
    last_dense = [node.name for node in nodes if node.op_type in ("Gemm", "MatMul")][-1:]
    return [node.name for node in nodes[:first_conv]] + last_dense


def _keep_card(source: Path, path: Path) -> None:
    """Quantization drops the metadata."""
    card = ModelCard.from_json({p.key: p.value for p in onnx.load(source).metadata_props}["card"])
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"card": card.to_json()})
    onnx.save(model, path)
