"""What is measured of an image's pixels (square, uint8, RGB, as the model will see them), on whole blocks at once.

Imports numpy alone, as each worker of `ingest` imports this, and scipy.fft would take it half a second.
"""

from functools import cache

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
HASH_SIDE = 8  # 64 bits


def measure(images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of the manifest, [N] each.

    `brightness` and `contrast` (mean and standard deviation of the luma, 0-1 scale); `colourfulness` (Hasler and
    Suesstrunk 2003, 0 = grey, 109 = extremely colourful); `sharpness` (variance of the Laplacian on the 0-255 scale,
    Pech-Pacheco et al. 2000); `phash` (uint64).
    """
    count, height, width = images_NHWC.shape[:3]
    pixels_NPC = images_NHWC.reshape(count, height * width, 3).astype(np.float32)
    # As a product, which is ten times as fast as a mean over the middle axis
    mean_NC = (np.full((1, height * width), 1 / (height * width), np.float32) @ pixels_NPC)[:, 0]
    luma_NHW = (pixels_NPC @ LUMA).reshape(count, height, width)
    pixels_NPC -= mean_NC[:, None]
    # Every other figure is a linear mixture of the channels: their covariance says it all
    covariance_NCC = pixels_NPC.transpose(0, 2, 1) @ pixels_NPC / (height * width)

    def mixed(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        variance = np.einsum("i,nij,j->n", weights, covariance_NCC, weights)
        return mean_NC @ weights, np.sqrt(np.maximum(variance, 0))

    brightness, contrast = mixed(LUMA)
    red_green, red_green_std = mixed(np.array([1, -1, 0], np.float32))
    yellow_blue, yellow_blue_std = mixed(np.array([0.5, 0.5, -1], np.float32))
    return {
        "brightness": brightness / 255,
        "contrast": contrast / 255,
        "sharpness": _laplacian_variance(luma_NHW),
        "colourfulness": np.hypot(red_green_std, yellow_blue_std) + 0.3 * np.hypot(red_green, yellow_blue),
        "phash": _perceptual_hash(luma_NHW),
    }


def _laplacian_variance(luma_NHW: np.ndarray) -> np.ndarray:
    """Of the four-neighbour Laplacian, without the border."""
    vertical = luma_NHW[:, :-2, 1:-1], luma_NHW[:, 2:, 1:-1]
    horizontal = luma_NHW[:, 1:-1, :-2], luma_NHW[:, 1:-1, 2:]
    edges = sum((*vertical, *horizontal), start=-4 * luma_NHW[:, 1:-1, 1:-1])
    flat = edges.reshape(len(edges), edges.shape[1] * edges.shape[2])
    return np.asarray(np.maximum(np.einsum("np,np->n", flat, flat) / flat.shape[1] - flat.mean(axis=1) ** 2, 0))


def _perceptual_hash(luma_NHW: np.ndarray) -> np.ndarray:
    """64 bits, uint64 [N]: which of the 8x8 lowest frequencies lie above their median (Zauner 2010, pHash)."""
    rows, columns = (_cosines(side) for side in luma_NHW.shape[1:])
    low = (rows @ luma_NHW @ columns.T).reshape(len(luma_NHW), HASH_SIDE**2)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


@cache
def _cosines(side: int) -> np.ndarray:
    """The lowest frequencies of the discrete cosine transform (type II, orthonormal), [8, side]."""
    frequency, place = np.arange(HASH_SIDE)[:, None], np.arange(side)[None, :]
    basis: np.ndarray = np.cos(np.pi * (2 * place + 1) * frequency / (2 * side)) * np.sqrt(2 / side)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)
