"""The one truth about turning an image file into model input: ingest, predict and every client of the ONNX file
use these functions, so that training and serving cannot drift apart. Imports no torch.

An image becomes a square uint8 RGB array; scaling and normalization happen inside the exported graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # the EXIF tag
# What a viewer does about each value of the tag (EXIF 2.32, section 4.6.4)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TOO_LARGE = f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels (decompression bomb)"


class UnreadableImage(ValueError):
    """A file that is not a usable image; the message is the reason, without the path."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image is brought to the model's size; travels inside the ONNX file.

    `size`: side in pixels. `resize`: crop | pad | stretch. `background`: RGB 0-255 behind transparency and padding.
    """

    size: int
    resize: str
    background: tuple[int, int, int]

    def record(self) -> dict[str, object]:
        return {**asdict(self), "background": list(self.background)}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Preprocessing:
        red, green, blue = record["background"]
        return Preprocessing(record["size"], record["resize"], (red, green, blue))


@dataclass(frozen=True)
class Decoded:
    """An image as it was found: upright, uint8 RGB [height, width, 3]; a far too large JPEG is decoded at a fraction of
    its size, never under twice the target. `width` and `height` are those of the upright file, `mode` is Pillow's."""

    pixels_HWC: np.ndarray
    width: int
    height: int
    mode: str
    format: str


def read(content: bytes, preprocessing: Preprocessing) -> Decoded:
    """Decode the bytes of one image file. Raises UnreadableImage with the reason.

    EXIF orientation is applied; transparency is composited on the background; 16-bit grey is scaled, not clipped.
    """
    if not content:
        raise UnreadableImage("the file is empty")
    try:
        if content.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(content, preprocessing)
        return _read_other(content, preprocessing)
    except UnreadableImage:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnreadableImage(TOO_LARGE) from None
    except UnidentifiedImageError:
        raise UnreadableImage("it is not an image that Pillow knows") from None
    # Pillow was seen to raise OSError, SyntaxError, ValueError, EOFError, TypeError and struct.error on broken files
    except Exception as error:
        raise UnreadableImage(f"it is damaged: {' '.join(str(error).split())}") from None


def _read_jpeg(content: bytes, preprocessing: Preprocessing) -> Decoded:
    """By libjpeg-turbo without Pillow's detours: the same pixels in a seventh of the time, and damage in mid-file,
    which Pillow passes over, is an error. The first picture counts: cameras put a preview behind the photo."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    if colours in ("CMYK", "YCCK"):  # print colours: Pillow knows about Adobe's inverted ones
        return _read_other(content, preprocessing)
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImage(TOO_LARGE)
    enough = 2 * preprocessing.size
    # A fraction of 2 or more is quicker to decode than the whole, one in between is not
    pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=enough, min_width=enough, min_factor=2)
    mode = "L" if colours == "Gray" else "RGB"
    if b"Exif\0\0" in content or b"tiff:Orientation" in content:
        with _strict_warnings(), Image.open(BytesIO(content)) as image:
            upright = _upright(Image.fromarray(pixels), image.getexif())
        if upright.size != pixels.shape[1::-1]:
            width, height = height, width
        pixels = np.asarray(upright)
    return Decoded(pixels, width, height, mode, "JPEG")


@contextmanager
def _strict_warnings() -> Iterator[None]:
    """Pillow only warns of images between one and two times its limit; its warnings of odd metadata do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@_strict_warnings()
def _read_other(content: bytes, preprocessing: Preprocessing) -> Decoded:
    pillow_heif.register_heif_opener()
    _verify(content)
    image = Image.open(BytesIO(content))
    width, height, mode, kind = *image.size, image.mode, image.format or "?"
    frames = getattr(image, "n_frames", 1)
    # Cameras put a preview or a depth map behind the photo: the first frame of these is the photo
    if frames > 1 and kind not in ("MPO", "HEIF"):
        raise UnreadableImage(f"it is animated or has several pages ({frames} frames)")
    image.load()
    upright = _upright(image, image.getexif())
    if upright.size != image.size:
        width, height = height, width
    return Decoded(np.asarray(_rgb(upright, preprocessing.background)), width, height, mode, kind)


def _upright(image: Image.Image, exif: Image.Exif) -> Image.Image:
    """As ImageOps.exif_transpose, which rewrites the EXIF data and fails where they are damaged."""
    operation = UPRIGHT.get(exif.get(ORIENTATION, 1))
    return image if operation is None else image.transpose(operation)


def _verify(content: bytes) -> None:
    """A PNG with a wrong checksum loads silently; only `verify`, which spoils the object, tells."""
    if content.startswith(b"\x89PNG"):
        with Image.open(BytesIO(content)) as image:
            image.verify()


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image.convert("RGB")


def _wide_grey_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey: `convert` would clip at 255, so bring the range to 0-255 first.

    The range is told by the values: 0-1 of floats, 0-255, 0-65535. Raises UnreadableImage where it is none of them.
    """
    grey = np.asarray(image, dtype=np.float64)
    low, high = float(grey.min(initial=0.0)), float(grey.max(initial=0.0))
    if not np.isfinite(grey).all():
        raise UnreadableImage("it has values that are not finite numbers")
    if low < 0 or high > 65535:
        raise UnreadableImage(f"its values run from {low:g} to {high:g}: bring them to 0-1, 0-255 or 0-65535")
    if image.mode.startswith("I;16") or high > 255:
        values = grey / 257.0
    else:
        values = grey * (255.0 if image.mode == "F" and high <= 1 else 1.0)
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8), "L").convert("RGB")


def to_array(pixels_HWC: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """An RGB image of any size, uint8 [height, width, 3], as a uint8 array [size, size, 3]."""
    side = preprocessing.size
    if pixels_HWC.shape[:2] != (side, side):
        image = Image.fromarray(pixels_HWC)
        if preprocessing.resize == "crop":
            image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
        elif preprocessing.resize == "pad":
            image = ImageOps.pad(image, (side, side), Image.Resampling.BILINEAR, color=preprocessing.background)
        else:
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        pixels_HWC = np.asarray(image)
    return pixels_HWC


def load(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """One image file as model input, uint8 [size, size, 3]. Raises ValueError with a sentence that names the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from None
    try:
        return to_array(read(content, preprocessing).pixels_HWC, preprocessing)
    except UnreadableImage as reason:
        raise ValueError(f"{path}: {reason}: give a JPEG, PNG, WebP, HEIC, BMP, TIFF or other image file") from None
