"""`benchmark`: every variant of every model, one after the other on a quiet machine, in interleaved rounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import layout
from pipeline.artifacts import VARIANTS, Images, read_dataset, read_json, write_json
from pipeline.config import Benchmark, Params
from pipeline.evaluation.plots import pareto, save
from pipeline.inference.predictor import Predictor
from pipeline.inference.timing import timed
from pipeline.machine import processor


def run(config: Params) -> list[str]:
    files, known = [], []
    for name in config.names:
        tested = read_json(layout.metrics("evaluate", name))["variants"]
        validated = read_json(layout.metrics("export", name)) | read_json(layout.metrics("quantize", name))
        for variant in VARIANTS:
            files.append(layout.onnx(variant, name))
            row = {"model": name, "variant": variant, **tested[variant]}
            row["val_accuracy"] = validated[variant]["val_accuracy"]
            known.append(row | read_json(layout.lineage("evaluate", name)))
    images, _ = read_dataset().of("val")
    result = benchmark(files, known, images, config.benchmark)
    write_json(layout.BENCHMARK, result)
    save(pareto(pd.DataFrame(result["variants"])), layout.PARETO)
    return [f"{len(files)} variants", f"{config.benchmark.threads} thread(s) of {result['hardware']}"]


def benchmark(files: list[Path], known: list[dict[str, Any]], images_NHWC: Images, config: Benchmark) -> dict[str, Any]:
    """benchmark.json: hardware and a row per variant: what earlier stages found (`known`), size and speed.

    Latencies are in milliseconds per call at batch 1 (median and 95th percentile), throughput in images per second
    at each batch size.
    """
    predictors = [Predictor(path, config.threads) for path in files]
    sizes = {1, *config.batch_sizes}
    shown = images_NHWC[: max(sizes)]
    batches = {size: np.resize(shown, (size, *shown.shape[1:])) for size in sizes}
    timings = timed(predictors, batches, config.rounds)
    rows = []
    for place, (path, row) in enumerate(zip(files, known, strict=True)):
        single = timings[place, 1]
        rows.append({
            **row,
            "size_mb": path.stat().st_size / 1e6,
            "latency_ms": float(np.median(single)),
            "latency_p95_ms": float(np.percentile(single, 95)),
            **{f"images_per_second_{b}": 1000 * b / float(np.median(timings[place, b])) for b in config.batch_sizes},
        })  # fmt: skip
    return {"hardware": processor(), "threads": config.threads, "rounds": config.rounds, "variants": rows}
