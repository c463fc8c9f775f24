"""What is measured of the pixels agrees with the definitions, one image at a time, by other libraries."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dctn
from scipy.ndimage import convolve

from pipeline.inspection.measures import LUMA, measure
from tests.dirty import photo

PHOTOS = np.stack([np.asarray(photo(seed, side=48)) for seed in range(5)])


def test_means_deviations_and_colourfulness_are_those_of_numpy() -> None:
    found = measure(PHOTOS)
    for i, image in enumerate(PHOTOS.astype(np.float64)):
        luma = image @ LUMA
        red, green, blue = image[..., 0], image[..., 1], image[..., 2]
        opponents = red - green, (red + green) / 2 - blue
        colourfulness = np.hypot(*(o.std() for o in opponents)) + 0.3 * np.hypot(*(o.mean() for o in opponents))
        assert found["brightness"][i] == pytest.approx(luma.mean() / 255, abs=1e-5)
        assert found["contrast"][i] == pytest.approx(luma.std() / 255, abs=1e-5)
        assert found["colourfulness"][i] == pytest.approx(colourfulness, abs=1e-2)


def test_sharpness_is_the_variance_of_the_laplacian_and_falls_with_blur() -> None:
    found = measure(PHOTOS)["sharpness"]
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    edges = convolve(PHOTOS[0] @ LUMA.astype(np.float64), kernel)[1:-1, 1:-1]
    assert found[0] == pytest.approx(edges.var(), rel=1e-3)
    blurred = np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(2))) for p in PHOTOS])
    assert (measure(blurred)["sharpness"] < found / 5).all()


def test_the_hash_is_of_the_low_frequencies_and_survives_compression() -> None:
    """As scipy's cosine transform gives it; small changes flip few of the 64 bits, another picture about half."""
    hashes = measure(PHOTOS)["phash"]
    low = dctn(PHOTOS[0] @ LUMA.astype(np.float64), norm="ortho")[:8, :8]
    bits = "".join("1" if value else "0" for value in (low > np.median(low)).ravel())
    assert int(np.bitwise_count(hashes[0] ^ np.uint64(int(bits, 2)))) <= 1  # a value at the median may fall either way
    brighter = measure((PHOTOS * 0.8 + 30).astype(np.uint8))["phash"]
    assert (np.bitwise_count(hashes ^ brighter) <= 4).all()
    assert (np.bitwise_count(hashes[0] ^ hashes[1:]) >= 16).all()


def test_no_image_at_all_is_measured_too() -> None:
    assert {len(column) for column in measure(PHOTOS[:0]).values()} == {0}
