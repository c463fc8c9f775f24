"""The registered model as MLflow loads and serves it: images in, as people have them, and classes out."""

import base64
import os.path
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts import sha256
from pipeline.errors import UserError
from pipeline.image_files import content_of, read
from pipeline.inference.predictor import Predictor
from pipeline.preprocessing import UnreadableImage, to_array

KINDS = "give bytes, paths, base64 or uint8 arrays [height, width, 3], in a list, an array or a DataFrame"
SERVER = "mlflow.pyfunc.scoring_server.app"  # the module that `mlflow models serve` runs


def _load_pyfunc(folder: str) -> "Classifier":
    """What MLflow calls. Raises UserError when the ONNX file is not the one that was stored."""
    recorded, name = (Path(folder) / "SHA256SUMS").read_text(encoding="utf-8").split()
    if sha256(model := Path(folder) / name) != recorded:
        raise UserError(f"{model} is damaged: its SHA-256 is not {recorded}. Download or register this version again")
    return Classifier(Predictor(model), text_may_be_path=SERVER not in sys.modules)


@dataclass(frozen=True)
class Classifier:
    predictor: Predictor
    text_may_be_path: bool  # who asks a server should not learn which files it has

    def predict(self, data: Any) -> list[dict[str, Any]]:
        """A record for each image, in order: class, confidence, probabilities by class; an error where there are none.
        Raises UserError where the kind of input is unknown."""
        records: list[dict[str, Any]] = []
        arrays = []
        for place, image in enumerate(_images(data)):
            records.append({"class": "", "confidence": None, "probabilities": {}, "error": ""})
            try:
                arrays.append(self._array(image, place))
            except UnreadableImage as reason:
                records[-1]["error"] = str(reason)
        scores = self.predictor.probabilities(np.stack(arrays)).tolist() if arrays else []
        for record, row in zip((record for record in records if not record["error"]), scores, strict=True):
            named = dict(zip(self.predictor.card.class_names, row, strict=True))
            best = max(named, key=lambda name: named[name])
            record |= {"class": best, "confidence": named[best], "probabilities": named}
        return records

    def _array(self, image: Any, place: int) -> np.ndarray:
        """uint8 [size, size, 3]. Raises UnreadableImage, and UserError where it is nothing that could be an image."""
        how = self.predictor.card.preprocessing
        if isinstance(image, str | bytes | bytearray | PurePath):
            return to_array(read(self._content(image), how).pixels_HWC, how)
        if pd.api.types.is_scalar(image) and pd.isna(image):
            raise UnreadableImage("there is no image")
        try:
            array = np.asarray(image)
        except ValueError:  # rows of unequal lengths
            array = np.empty(0)
        whole = array.dtype == np.int64 and bool(((array >= 0) & (array <= 255)).all())  # all that JSON has
        if array.size and array.shape[2:] == (3,) and (whole or array.dtype == np.uint8):
            return to_array(array.astype(np.uint8), how)
        raise UserError(f"image {place} is {type(image).__name__} ({array.dtype} {list(array.shape)}): {KINDS}")

    def _content(self, image: str | bytes | bytearray | PurePath) -> bytes:
        if isinstance(image, bytes | bytearray):
            return bytes(image)
        # Path.is_file raises for a text that is too long; a path may be valid base64, so it comes first
        if isinstance(image, PurePath) or (self.text_may_be_path and os.path.isfile(image)):  # noqa: PTH113
            return content_of(Path(image))
        try:  # of data URLs too, and in lines
            return base64.b64decode("".join(re.sub("^data:[^,]*,", "", image).split()), validate=True)
        except ValueError:
            path = " and not the path of a file" if self.text_may_be_path else ""
            raise UnreadableImage(f"it is not base64{path}") from None


def _images(data: Any) -> list[Any]:
    if isinstance(data, pd.DataFrame | dict) and [*data]:
        data = data["image" if "image" in data else next(iter(data))]
    if isinstance(data, str | bytes | bytearray | PurePath):
        return [data]
    if isinstance(data, np.ndarray) and data.dtype.kind != "S":  # numpy cuts zeros off the ends of bytes
        data = np.atleast_1d(data)
        return list(data[None] if data.ndim == 3 and data.shape[2] == 3 else data)
    if isinstance(data, list | tuple | pd.Series):
        return list(data)
    raise UserError(f"images cannot come as {type(data).__name__}: {KINDS}")
