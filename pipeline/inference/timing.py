"""How long models take, measured in turns, so that a noisy moment hits them all."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from pipeline.inference.predictor import Predictor

WARMUP = 3  # rounds that do not count


def timed(
    predictors: Sequence[Predictor], batches: Mapping[int, np.ndarray], rounds: int
) -> dict[tuple[int, int], np.ndarray]:
    """Milliseconds a call [rounds], by place of the predictor and key of the batch (uint8 [n, size, size, 3])."""
    times: dict[tuple[int, int], list[float]] = {
        (place, key): [] for place in range(len(predictors)) for key in batches
    }
    for turn in tqdm(range(-WARMUP, rounds), "latency", unit=" rounds", disable=None):
        for (place, key), measured in times.items():
            start = time.perf_counter()
            predictors[place].run(batches[key])
            if turn >= 0:
                measured.append(time.perf_counter() - start)
    return {place: np.array(measured) * 1000 for place, measured in times.items()}
