"""The architectures of the comparison have exactly the layers that they are said to have."""

from __future__ import annotations

import pytest
import torch

from pipeline.architectures import build
from pipeline.config import files_of


@pytest.mark.parametrize(
    ("name", "parameters"), [("simple_cnn", 620_362), ("modern_cnn", 1_283_914), ("simple_resnet", 2_777_674)]
)
def test_parameters_at_32_pixels_and_10_classes(name: str, parameters: int) -> None:
    """The published sizes."""
    assert sum(p.numel() for p in build(name, classes=10, size=32).parameters()) == parameters


@pytest.mark.parametrize("name", sorted({*files_of("architectures")} - {"ensemble"}))
@pytest.mark.parametrize(("size", "classes"), [(8, 2), (20, 3), (64, 101)])
def test_any_size_and_number_of_classes(name: str, size: int, classes: int) -> None:
    """Every file of the folder builds for small, odd and larger images."""
    network = build(name, classes=classes, size=size).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, classes)
