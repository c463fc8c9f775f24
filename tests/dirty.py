"""A folder with one of each: whatever real image folders have been seen to hold."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageFilter

SIDE = 100


def photo(seed: int, side: int = SIDE) -> Image.Image:
    """A picture with soft coloured shapes, different for every seed."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    fine = draw.integers(-20, 20, (side, side, 3))
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + fine).clip(0, 255).astype(np.uint8))


def clean_folder(root: Path, per_class: int = 30) -> Path:
    """`root/train/{cat,dog}` and `root/test/{cat,dog}`: JPEG files of 100x100 pixels."""
    for number, (split, label) in enumerate((s, c) for s in ("train", "test") for c in ("cat", "dog")):
        folder = root / split / label
        folder.mkdir(parents=True)
        for i in range(per_class):
            photo(1000 * number + i).save(folder / f"{i:03d}.jpg", quality=92)
    return root


def dirty_folder(root: Path) -> Path:
    """The clean folder, with one of each fault put into `train/cat` and around it."""
    clean_folder(root)
    cat = root / "train" / "cat"
    good = (cat / "000.jpg").read_bytes()
    middle = len(good) // 2
    (cat / "truncated.jpg").write_bytes(good[:middle])
    (cat / "damaged in the middle.jpg").write_bytes(good[:middle] + bytes(range(216, 256)) + good[middle + 40 :])
    simple = {"Schöne Katze 猫.jpg": 9007, "UPPER.JPG": 9008, "phone.heic": 9010, "no end.jpg": 9013}
    pillow_heif.register_heif_opener()
    for name, seed in simple.items():
        photo(seed).save(cat / name)
    (cat / "no end.jpg").write_bytes((cat / "no end.jpg").read_bytes()[:-2])
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "text.jpg").write_text("this is no picture")
    photo(9001).convert("CMYK").save(cat / "cmyk.jpg")
    Image.fromarray(np.full((SIDE, SIDE), 32896, np.uint16)).save(cat / "sixteen bit.png")
    layer = photo(9002).convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize((SIDE, SIDE)))
    layer.save(cat / "rgba.png")
    photo(9003).quantize(64).save(cat / "palette.png")
    photo(9004).save(cat / "animated.gif", save_all=True, append_images=[photo(9005)])
    turned = Image.fromarray(np.asarray(photo(9006))[:60])  # 100 wide, 60 high, shot with the camera on its side
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(cat / "turned.jpg", exif=exif)
    (cat / "bomb.png").write_bytes(bomb())
    (cat / "loop").symlink_to(cat)
    (cat / "itself.jpg").symlink_to(cat / "itself.jpg")
    (root / "train" / "empty class").mkdir()
    for litter in ("@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg", "Thumbs.db", "Icon\r", "._000.jpg", "000.xml", "readme.txt"):
        for folder in (cat, root / "train" / "only litter"):
            (folder / litter).parent.mkdir(parents=True, exist_ok=True)
            (folder / litter).write_bytes(good)  # the name decides
    (root / "train" / "labels.csv").write_text("path,label\n")
    (root / "train" / "lonely").mkdir()
    photo(9009).save(root / "train" / "lonely" / "only one.jpg")
    photo(9011, side=3024).save(cat / "huge.jpg", quality=60)
    shutil.copy(cat / "001.jpg", root / "test" / "cat" / "leaked.jpg")
    photo(2).save(root / "test" / "cat" / "leaked, other quality.jpg", quality=75)  # train/cat/002.jpg, saved again
    shutil.copy(cat / "003.jpg", root / "train" / "dog" / "two labels.jpg")
    photo(9012).filter(ImageFilter.GaussianBlur(6)).save(cat / "blurred.jpg")
    Image.new("RGB", (SIDE, SIDE), (2, 2, 2)).save(cat / "black.jpg")
    return root


def png(width: int, height: int, bits: int, colours: int, deflated: bytes) -> bytes:
    """A PNG file of the rows that are given, each with its filter type; `colours`: 0 grey, 2 RGB, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", deflated), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bomb(side: int = 30_000) -> bytes:
    """A valid PNG of under a megabyte that would take 0.9 GB of memory."""
    rows, line = zlib.compressobj(9), b"\0" + bytes(side // 8)
    return png(side, side, 1, 0, b"".join(rows.compress(line) for _ in range(side)) + rows.flush())
