"""`digits`: 1,797 scans of handwritten digits, 8x8 grey, bundled with scikit-learn: needs no file and no network.
Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, https://doi.org/10.24432/C50P49"""

from pathlib import Path

import numpy as np

from pipeline.datasets import Entry, Found


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    from sklearn.datasets import load_digits

    scans, digits = load_digits(return_X_y=True)
    grey = (scans.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)  # 17 levels of ink, 0-16
    images = enumerate(zip(grey.repeat(3, axis=3), digits, strict=True))
    return Found([Entry(f"digits/{i:04d}", str(digit), "", image) for i, (image, digit) in images])
