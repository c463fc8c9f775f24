"""What MLflow stores of a model, so that it runs where this project is not installed."""

import base64
import hashlib
import logging
import re
from importlib.metadata import version
from io import BytesIO
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map
from PIL import Image

from pipeline.artifacts import ModelCard

PACKAGES = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow", "pillow-heif", "simplejpeg")  # of inference/pyfunc.py


def log_args(model: Path, digest: str, card: ModelCard, scratch: Path, *kept: Path) -> dict[str, Any]:
    """Arguments of mlflow.pyfunc for an ONNX file of ours (its SHA-256, its card), and files to keep beside it.
    `scratch`: an empty folder that must stay until MLflow has stored the model."""
    (data := scratch / "model").mkdir()
    for file in (model, *kept):
        (data / file.name).symlink_to(file.resolve())  # MLflow copies what it points to
    (data / "SHA256SUMS").write_text(f"{digest}  {model.name}\n", encoding="utf-8")
    root = Path(__file__).parents[2]
    finder = ModuleFinder([str(root)])  # follows imports of ours, as no other module is found there
    finder.import_hook("pipeline.inference.pyfunc")
    files = sorted(Path(file) for module in finder.modules.values() if (file := vars(module)["__file__"]))
    texts = {file.relative_to(root / "pipeline"): file.read_bytes() for file in files}
    # Under a name of its own: a client may have another `pipeline`, or load two versions, whose code MLflow would mix
    package = f"pipeline_{hashlib.sha256(b''.join(texts.values())).hexdigest()[:12]}"
    for file, text in texts.items():
        (copy := scratch / package / file).parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(re.sub(rb"^(\s*(?:from|import)) pipeline\b", rb"\1 " + package.encode(), text, flags=re.M))
    example = BytesIO()
    Image.new("RGB", (8, 8)).save(example, "PNG")
    record = {"class": DataType.string, "confidence": DataType.double, "error": DataType.string}
    outputs = [ColSpec(Map(DataType.double), "probabilities"), *(ColSpec(kind, key) for key, kind in record.items())]
    # It warns that an environment made by uv has no pip
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    return {
        "metadata": {"class_names": list(card.class_names), "preprocessing": card.preprocessing.record()},
        # Without inputs: MLflow has no type for what may be bytes, text or an array
        "signature": ModelSignature(outputs=Schema([*outputs])),
        "loader_module": f"{package}.inference.pyfunc", "code_paths": [str(scratch / package)], "data_path": str(data),
        "input_example": pd.DataFrame({"image": [base64.b64encode(example.getvalue()).decode()]}),
        "pip_requirements": [f"{name}=={version(name)}" for name in PACKAGES],  # inferring them would take seconds
    }  # fmt: skip
