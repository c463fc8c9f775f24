"""The sections of what becomes of a trained network: export, quantize, evaluate, audit, benchmark, registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Positive, Section, Share


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    # The export fails when a probability of the ONNX file differs by more than this from torch.
    tolerance: Annotated[float, Field(gt=0)] = 1e-4


class Quantize(Section):
    # Training images that calibrate the ranges of the activations.
    calibration_images: Positive = 512


class Evaluate(Section):
    # Bins of the calibration diagram and of the expected calibration error.
    calibration_bins: Positive = 15
    # Most confident mistakes that are shown.
    mistakes: Positive = 24


class Audit(Section):
    # Suspected label errors that are shown in the report.
    shown: Positive = 48


class Benchmark(Section):
    batch_sizes: Annotated[list[Positive], Field(min_length=1)] = [1, 64]
    # Rounds over all variants, interleaved; the median is reported.
    rounds: Positive = 30
    threads: Positive = 1


class Registry(Section):
    # Name of the registered model.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")] = "image-classifier"
    # What may become a challenger: fp32, pruned (both agree with their torch network), int8, pruned_int8.
    variants: Annotated[list[Literal["fp32", "pruned", "int8", "pruned_int8"]], Field(min_length=1)] = ["fp32"]
    # Budgets: a candidate over one of them is passed by. Validation accuracy is a share of 1.
    min_accuracy: Share = 0.5
    max_size_mb: Annotated[float, Field(gt=0)] = 100.0
    # Median at batch 1 on the machine that ran `benchmark`.
    max_latency_ms: Annotated[float, Field(gt=0)] = 100.0
