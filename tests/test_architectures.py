"""The architectures have exactly the layers that they are said to have, learn, and can be shipped."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Export, Prune, architectures
from pipeline.errors import UserError
from pipeline.networks import weights
from pipeline.networks.architectures import build, find, learning_rates
from pipeline.networks.deployable import last_dense
from pipeline.stages.export import export
from pipeline.stages.prune import remove_channels

# Even kernels, strides, valid padding, both kinds of pooling
CONVOLUTIONS = [
    {"filters": 16, "kernel_size": 4, "activation": "gelu", "pool": "avg"},
    {"filters": 24, "stride": 2, "batch_norm": False, "activation": "none"},
    {"filters": 32, "padding": "valid", "activation": "leaky_relu", "pool": "max"},
]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def configured(size: int = 32, **options: Any) -> nn.Module:
    return build("configurable_cnn", classes=10, size=size, options=options).eval()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("simple_cnn", 620_362),
        ("modern_cnn", 1_283_914),
        ("simple_resnet", 2_777_674),
        # 3x3 filters 9 x (3x32 + 32x64 + 64x128); norms 2 x (32 + 64 + 128); dense 129 x 128 + 129 x 10
        ("cnn", 111_274),
        ("configurable_cnn", 111_274),
        # 9 x (3x64 + 64x128 + 128x256); 2 x (64 + 128 + 256); 257 x 128 + 129 x 10
        ("standard_cnn", 405_450),
        # (25x3 + 1) x 6; (25x6 + 1) x 16; (16x5x5 + 1) x 120; 121 x 84; 85 x 10
        ("lenet5", 62_006),
        # (4x3 + 1) x 24; 9 x (24x64 + 64x64 + 64x256 + 3 x 256x256); norms 2 x 2 x (64 + 256 + 256); 256 x 10
        ("speed_resnet", 1_972_792),
        ("torchvision_model", 11_181_642),  # torchvision's resnet18
    ],
)
def test_parameters_at_32_pixels_and_10_classes(name: str, count: int) -> None:
    assert parameters(build(name, classes=10, size=32)) == count


@pytest.mark.parametrize("name", architectures())
@pytest.mark.parametrize(("size", "classes"), [(8, 2), (20, 3), (64, 101)])
def test_any_size_and_number_of_classes(name: str, size: int, classes: int) -> None:
    network = build(name, classes=classes, size=size).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, classes)


@pytest.mark.parametrize("name", architectures())
def test_each_exports_and_agrees_with_torch(tmp_path: Path, card: ModelCard, dataset: Dataset, name: str) -> None:
    torch.manual_seed(0)
    own = replace(card, architecture=name)
    made = export(weights.fresh(own), own, *dataset.of("val"), Export(), tmp_path / "model.onnx")
    assert made["largest_difference"] < 1e-5


@pytest.mark.parametrize("size", [8, 9, 20, 31])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_same_padding_divides_the_side_by_the_stride_and_rounds_up(kernel: int, stride: int, size: int) -> None:
    """With head flatten the dense layer shows the side."""
    layer = {"filters": 4, "kernel_size": kernel, "stride": stride}
    network = configured(size, convolutions=[layer], head="flatten", dense=[])
    assert last_dense(network).in_features == 4 * (-(-size // stride)) ** 2
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("configurable_cnn", {"convolutions": CONVOLUTIONS, "head": "flatten", "dense": [{"units": 32}]}),
        ("configurable_cnn", {"convolutions": CONVOLUTIONS, "head": "global_max", "dense": []}),
        # Shortcuts, depthwise and grouped convolutions, layer norms, and layers that version what they save
        *[("torchvision_model", {"name": name}) for name in ("mobilenet_v3_small", "convnext_tiny", "mnasnet0_5")],
        ("torchvision_model", {"name": "resnext50_32x4d"}),
    ],
)
def test_a_pruned_network_comes_back_from_its_file(
    tmp_path: Path, card: ModelCard, architecture: str, options: dict[str, Any]
) -> None:
    own = replace(card, architecture=architecture, options=options, preprocessing=replace(card.preprocessing, size=32))
    network = weights.fresh(own)
    whole, images_NCHW = parameters(network), torch.randn(2, 3, 32, 32)
    remove_channels(network, own, Prune())
    weights.save(tmp_path / "pruned.safetensors", network, own)
    loaded, same = weights.load(tmp_path / "pruned.safetensors")
    assert same == own and parameters(loaded) < whole / 2
    assert torch.equal(loaded(images_NCHW), network.eval()(images_NCHW))


def test_dropout_stands_in_front_of_the_last_layer_where_there_is_no_other() -> None:
    kinds = [type(layer).__name__ for layer in configured(dense=[], dropout=0.2).children()]
    assert kinds[-3:] == ["Flatten", "Dropout", "Linear"] and kinds.count("Dropout") == 1
    assert "Dropout" not in [type(layer).__name__ for layer in configured(dropout=0.0).children()]


@pytest.mark.parametrize(
    ("convolutions", "where"),
    [
        ([{"filters": 8, "stride": 16}, {"filters": 8, "padding": "valid"}], "[1]: the image is 2 x 2"),
        ([{"filters": 8, "stride": 8}, {"filters": 8, "pool": "avg", "pool_size": 5}], "[1]: the image is 4 x 4"),
        ([], " is []"),
    ],
)
def test_configurable_cnn_refuses_with_the_layers_place(convolutions: list[dict[str, Any]], where: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"options.convolutions{where}")):
        configured(32, convolutions=convolutions)


def test_speed_resnets_first_layer_whitens_the_patches() -> None:
    """After `prepare` its first outputs have the unit matrix as covariance; the second half are their negatives."""
    torch.manual_seed(0)
    images_NCHW = nn.functional.avg_pool2d(torch.randn(600, 3, 20, 20), 3, 1)  # neighbours are alike, as in pictures
    network = build("speed_resnet", classes=4, size=18)
    find("speed_resnet").prepare(network, images_NCHW)
    weight = network.get_parameter("0.weight").detach().flatten(1)
    whitened = unfold(images_NCHW, 2).transpose(1, 2).reshape(-1, 12) @ weight[:12].T
    covariance = whitened.T @ whitened / len(whitened)
    assert torch.allclose(covariance, torch.diag(covariance.diagonal()), atol=1e-3)
    assert covariance.diagonal().min() > 0.5 and covariance.diagonal().max() < 1.001
    assert torch.equal(weight[12:], -weight[:12])


def test_speed_resnet_freezes_the_whitening_and_the_norms_scales() -> None:
    network = build("speed_resnet", classes=4, size=32)
    factors = learning_rates(network, "speed_resnet", {"bias_rate": 8.0})
    assert factors.keys() <= dict(network.named_parameters()).keys()
    assert factors["0.weight"] == 0 and set(factors.values()) == {0.0, 8.0}
