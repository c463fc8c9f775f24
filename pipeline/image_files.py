"""One image file as upright RGB pixels, by the same functions in ingest and predict. Imports no torch."""

import re
import stat
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.Image import Transpose

from pipeline.bit_depth import Peak, eight_bits, values_of
from pipeline.errors import UserError
from pipeline.preprocessing import Preprocessing, UnreadableImage, to_array

# What a viewer does about each value of the tag Orientation (EXIF 2.32, section 4.6.4)
UPRIGHT = {
    **{2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE},
    **{6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90},
}
# Markers of JPEG (ITU T.81, B.1.1.3): any that is no part of a scan, as restarts are; those that begin a frame
MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])", re.DOTALL)
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN, END = 0xDA, 0xD9
pillow_heif.register_heif_opener()
warnings.filterwarnings("ignore", module="PIL")  # of odd metadata
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0
TOO_LARGE = f"it has more than {MOST_PIXELS:,} pixels (decompression bomb)"
MOST_BYTES = 4 * MOST_PIXELS  # of a file: all pixels that are admitted, not even compressed


@dataclass(frozen=True)
class Decoded:
    """An upright image, uint8 RGB [height, width, 3]; a far too large JPEG at a fraction of its size, never under twice
    the target. `width` and `height` are those of the upright file, `mode` is Pillow's. `note`: what is wrong with the
    file all the same. `peak`: of more than 8 bits, where the file does not say which value is white."""

    pixels_HWC: np.ndarray
    width: int
    height: int
    mode: str
    format: str
    note: str = ""
    peak: Peak | None = None


def read(content: bytes, preprocessing: Preprocessing) -> Decoded:
    """Decode one image file: turned upright, transparency on the background, more than 8 bits scaled and not clipped.
    Raises UnreadableImage with the reason."""
    if not content:
        raise UnreadableImage("the file is empty")
    try:
        return (_read_jpeg if content.startswith(b"\xff\xd8\xff") else _read_other)(content, preprocessing)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(TOO_LARGE) from None
    except UnidentifiedImageError:
        raise UnreadableImage("it is not an image, or of a kind that Pillow cannot read") from None
    # Pillow was seen to raise OSError, SyntaxError, ValueError, EOFError, TypeError and struct.error on broken files
    except Exception as error:
        raise UnreadableImage(f"it is damaged: {' '.join(str(error).split())}") from None


def _read_jpeg(content: bytes, preprocessing: Preprocessing) -> Decoded:
    try:
        return _decode_jpeg(content, preprocessing)
    except ValueError as warning:  # libjpeg has one warning for harmless bytes and damage, and tells of the first alone
        whole = _segments(content)
        picture = whole.rstrip(b"\0\xff")
        padding = whole[len(picture) :]
        # What may belong to the last scan; any zero more could stand in for a part of the picture that is lost
        own = padding[:2] if padding.startswith(b"\xff\0") else padding if len(padding) == 1 else b""
        for version in (picture + own, picture):
            with suppress(ValueError):
                return replace(_decode_jpeg(version + bytes([0xFF, END]), preprocessing), note=str(warning))
        raise


def _segments(content: bytes) -> bytes:
    """A JPEG file without its end and without bytes between its segments; empty if a scan of the picture is missing."""
    parts, place, components = [content[:2]], 2, 1
    exact = 0  # coefficients whose last bit is there, of all components (ITU T.81, G.1.2)
    while (marker := MARKER.search(content, place)) and ord(marker[1]) != END:
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
        segment = content[marker.end() + 2 : place]
        if ord(marker[1]) in FRAMES:
            components = int.from_bytes(segment[5:6])
        elif ord(marker[1]) == SCAN:
            *_, first, last, precision = 0, 0, 15, *segment  # 15: the scan's header is cut off
            if precision & 15 == 0:
                exact += segment[0] * (last + 1 - first)
            after = MARKER.search(content, place)
            place = after.start() if after else len(content)
        parts.append(content[marker.start() : place])
    return b"".join(parts) if exact == 64 * components else b""


def _decode_jpeg(content: bytes, preprocessing: Preprocessing) -> Decoded:
    """By libjpeg-turbo without Pillow's detours: the same pixels in a seventh of the time, and damage in mid-file,
    which Pillow passes over, is an error. The first picture counts: cameras put a preview behind the photo."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    if colours in ("CMYK", "YCCK"):  # print colours: Pillow knows about Adobe's inverted ones
        simplejpeg.decode_jpeg(content, "CMYK")  # for its errors, which Pillow passes over
        return _read_other(content, preprocessing)
    if width * height > MOST_PIXELS:
        raise UnreadableImage(TOO_LARGE)
    enough = 2 * preprocessing.size
    # A fraction of 2 or more is quicker to decode than the whole, one in between is not
    pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=enough, min_width=enough, min_factor=2)
    if b"Exif\0\0" in content or b"tiff:Orientation" in content:
        with Image.open(BytesIO(content)) as image:
            upright = _upright(Image.fromarray(pixels), image)
        if upright.size != pixels.shape[1::-1]:
            width, height = height, width
        pixels = np.asarray(upright)
    return Decoded(pixels, width, height, "L" if colours == "Gray" else "RGB", "JPEG")


def _read_other(content: bytes, preprocessing: Preprocessing) -> Decoded:
    if content.startswith(b"\x89PNG"):  # with a wrong checksum it loads silently; only `verify`, which spoils it, tells
        Image.open(BytesIO(content)).verify()
    image = Image.open(BytesIO(content))
    _seek_picture(image)
    mode, kind = image.mode, image.format or "?"
    if image.width * image.height > MOST_PIXELS:  # Pillow stops at twice as many
        raise UnreadableImage(TOO_LARGE)
    values = values_of(image, content)
    picture, peak = (image, None) if values is None else eight_bits(values, image, preprocessing.white)
    image.load()
    upright = _upright(picture, image)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (*preprocessing.background, 255)), layer)
    return Decoded(np.asarray(upright.convert("RGB")), *upright.size, mode, kind, peak=peak)


def _seek_picture(image: ImageFile.ImageFile) -> None:
    """Turns to the page that is the picture."""
    frames = getattr(image, "n_frames", 1)
    # Cameras put a preview or a depth map behind the photo: the first frame of these is the photo
    if frames == 1 or image.format in ("MPO", "HEIF"):
        return
    pages = [page for page in range(frames) if image.format != "TIFF" or _is_picture(image, page)]
    if len(pages) != 1:
        raise UnreadableImage(f"it is animated or has several pages ({frames} frames)")
    image.seek(pages[0])


def _is_picture(image: ImageFile.ImageFile, page: int) -> bool:
    """Whether a page of a TIFF is neither another one at a smaller size nor a mask (TIFF 6.0, NewSubfileType)."""
    image.seek(page)
    tags = image.tag_v2  # type: ignore[attr-defined]  # of TIFF files alone
    return not tags.get(Base.NewSubfileType, 0) & 0b101 and tags.get(Base.SubfileType) != 2


def _upright(picture: Image.Image, file: Image.Image) -> Image.Image:
    """As ImageOps.exif_transpose, which rewrites the EXIF data of the file and fails where they are damaged."""
    operation = UPRIGHT.get(file.getexif().get(Base.Orientation, 1))
    return picture if operation is None else picture.transpose(operation)


def content_of(path: Path) -> bytes:
    """All of an image file. Raises UnreadableImage; a huge one is not read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO or a device may wait for ever
            raise UnreadableImage("it is not a regular file")
        if status.st_size > MOST_BYTES:
            raise UnreadableImage(f"it has {status.st_size:,} bytes, more than any image ({MOST_BYTES:,})")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"it cannot be opened: {error.strerror}") from None


def load(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """One image file as model input, uint8 [size, size, 3]. Raises UserError with a sentence that names the file."""
    try:
        return to_array(read(content_of(path), preprocessing).pixels_HWC, preprocessing)
    except UnreadableImage as reason:
        raise UserError(f"{path}: {reason}: give a JPEG, PNG, WebP, HEIC, BMP, TIFF or other image file") from None
