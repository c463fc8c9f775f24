"""Copies, near-duplicates and drift: found where they are, and not where they are not."""

import time
import tracemalloc
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from pipeline.artifacts import ImageRows
from pipeline.errors import UserError
from pipeline.inspection import duplicates
from pipeline.inspection.drift import drift, profile
from pipeline.inspection.duplicates import find, near_pairs
from pipeline.inspection.measures import measure
from tests.dirty import photo

SIDE = 64
ORIGINALS = [photo(seed, SIDE) for seed in range(60)]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def manifest_of(images_NHWC: np.ndarray) -> pd.DataFrame:
    names = [f"{i:03d}.png" for i in range(len(images_NHWC))]
    contents = [image.tobytes().hex()[:4000] for image in images_NHWC]
    return pd.DataFrame({"path": names, "class": "a", "sha256": contents, **measure(images_NHWC)})


def near_pairs_of(images_NHWC: np.ndarray) -> pd.DataFrame:
    return near_pairs(measure(images_NHWC)["phash"], ImageRows(images_NHWC, np.arange(len(images_NHWC))), 10, 0.9)


def compressed(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


VERSIONS = {
    "compressed": compressed(ORIGINALS[0]),
    "brighter": ImageEnhance.Brightness(ORIGINALS[1]).enhance(1.2),
    "less contrast": ImageEnhance.Contrast(ORIGINALS[2]).enhance(0.6),
    "scaled": ORIGINALS[3].resize((40, 40)).resize((SIDE, SIDE)),
    "cropped a little": ORIGINALS[4].crop((1, 1, SIDE - 1, SIDE - 1)).resize((SIDE, SIDE)),
}


def test_versions_of_a_picture_are_found_and_other_pictures_are_not() -> None:
    pairs = near_pairs_of(pixels([*ORIGINALS, *VERSIONS.values()]))
    assert pairs[["first", "second"]].to_numpy().tolist() == [[i, 60 + i] for i in range(5)]


def test_flat_pictures_resemble_nothing() -> None:
    flat = pixels([Image.new("RGB", (SIDE, SIDE), (level, 50, 50)) for level in range(0, 250, 10)])
    assert near_pairs_of(flat).empty


def test_pictures_that_are_alike_by_nature_are_a_sentence() -> None:
    with pytest.raises(UserError, match=r"validate\.min_similarity"):
        near_pairs_of(pixels([ORIGINALS[0]] * 120))


def test_candidates_do_not_pile_up() -> None:
    """Where they are used more slowly than they are found: 18 million pairs would take 288 MB."""
    tracemalloc.start()
    try:
        candidates = duplicates._candidates(np.zeros(6000, np.uint64), 10)
        assert 0 < len(next(candidates)[0]) <= duplicates.LOOKED_AT
        time.sleep(2)
        assert tracemalloc.get_traced_memory()[0] < 160 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(50, 2000), st.integers(20, 300))
def test_all_pairs_are_found_in_blocks_of_any_size(seed: int, compared: int, looked_at: int) -> None:
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)[draw.integers(0, 40, 70)]
    images = np.clip(images + draw.integers(-25, 25, images.shape), 0, 255).astype(np.uint8)
    hashes = draw.integers(0, 2**64, 4, dtype=np.uint64)[draw.integers(0, 4, 70)]
    hashes ^= draw.integers(0, 255, 70, dtype=np.uint64)
    flat = images.astype(float) - images.mean(axis=(1, 2), keepdims=True)
    flat = flat.reshape(70, -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    close = np.bitwise_count(hashes[:, None] ^ hashes) <= 5
    wanted = np.argwhere(np.triu(close & (flat @ flat.T >= 0.9), 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "COMPARED", compared)
        patch.setattr(duplicates, "LOOKED_AT", looked_at)
        found = near_pairs(hashes, ImageRows(images, np.arange(70)), 5, 0.9)
    assert found[["first", "second"]].to_numpy().tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("similarity", "wanted"), [(0.9, [[0, 3, False], [0, 4, True], [3, 4, False]]), (1.0, [[0, 4, True]])]
)
def test_what_is_true_of_a_file_is_true_of_its_copies(similarity: float, wanted: list[list[object]]) -> None:
    """A copy of a picture is a near-duplicate of its versions too; a similarity of 1 looks for copies only."""
    images = pixels([*ORIGINALS[:3], VERSIONS["compressed"], ORIGINALS[0]])
    pairs = find(manifest_of(images), images, 10, similarity)
    assert pairs[["first", "second", "exact"]].to_numpy().tolist() == wanted
    assert pairs["second_path"].iloc[-1] == "004.png"


def test_copies_of_both_make_few_pairs() -> None:
    images = pixels([ORIGINALS[0], VERSIONS["compressed"]] * 100)
    pairs = find(manifest_of(images), images, 10, 0.9)
    assert set(pairs["first"]) | set(pairs["second"]) == set(range(200))
    assert len(pairs) < 500


def drawn(count: int, seed: int, **changed: float) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    measures = ("brightness", "contrast", "sharpness", "colourfulness", "width", "height")
    table = {name: draw.normal(0.5 + changed.get(name, 0.0), 0.1, count) for name in measures}
    return pd.DataFrame({"class": draw.choice(["a", "b"], count), **table})


@pytest.mark.parametrize("count", [60, 2000])
def test_another_draw_of_the_same_kind_is_no_drift(count: int) -> None:
    """Also of few images, where the index itself is large by chance."""
    for seed in range(10):
        assert max(drift(profile(drawn(count, 100)), drawn(count, seed)).values()) < 0.25


def test_darker_images_and_another_mix_of_classes_are_drift() -> None:
    shifts = drift(profile(drawn(2000, 0)), drawn(500, 1, brightness=-0.2))
    assert [name for name, psi in shifts.items() if psi > 0.25] == ["brightness"]
    now = drawn(2000, 1)
    fewer, renamed = now[(now["class"] == "a") | (now.index % 10 == 0)], now.replace({"class": {"b": "c"}})
    for other in (fewer, renamed):
        shifts = drift(profile(drawn(2000, 0)), other)
        assert [name for name, psi in shifts.items() if psi > 0.25] == ["classes"]
