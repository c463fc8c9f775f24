"""`digits`: 1,797 scans of handwritten digits, 8x8 grey, bundled with scikit-learn: needs no file and no network.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.datasets import Entry, Found


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = (bunch.images * (255 / 16)).round().astype(np.uint8)  # 17 levels of ink, 0-16
    pixels = np.repeat(grey[..., None], 3, axis=3)
    images = enumerate(zip(pixels, bunch.target, strict=True))
    return Found([Entry(f"digits/{i:04d}", str(label), "", image) for i, (image, label) in images])
