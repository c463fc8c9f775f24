"""An ONNX file that this pipeline exported, ready to classify."""

from pathlib import Path

import numpy as np
import onnxruntime

from pipeline.artifacts import Images, ModelCard, opened
from pipeline.errors import UserError

PIXELS = 1 << 16  # of the images of a batch, as their activations take hundreds of times as much memory


class Predictor:
    """One ONNX Runtime session on the CPU. `card` comes from the file itself."""

    def __init__(self, model: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # A spinning pool would steal the cores of whatever else runs here
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with opened(model):
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        if "card" not in metadata:
            raise UserError(f"{model} was not exported by this pipeline: it has no model card in its metadata")
        self.card = ModelCard.from_json(metadata["card"])

    def run(self, batch_NHWC: np.ndarray) -> np.ndarray:
        """One call: uint8 [N, size, size, 3] -> float32 [N, classes]."""
        (scores,) = self.session.run(["probabilities"], {"image": np.ascontiguousarray(batch_NHWC)})
        assert isinstance(scores, np.ndarray)
        return scores

    def probabilities(self, images_NHWC: Images) -> np.ndarray:
        """Any number of images, in batches: uint8 [N, size, size, 3] -> float32 [N, classes]."""
        batch = max(1, PIXELS // self.card.preprocessing.size**2)
        return np.concatenate([self.run(images_NHWC[i : i + batch]) for i in range(0, len(images_NHWC), batch)])
