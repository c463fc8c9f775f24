"""Any classifier of torchvision: from scratch, or from a file, with a last layer of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate

from pipeline.artifacts import ModelCard
from pipeline.config import Prune
from pipeline.networks import weights
from pipeline.networks.architectures import build, checked, find
from pipeline.preprocessing import Preprocessing
from pipeline.stages.prune import remove_channels

FILE = find("torchvision_model")
SMALL = "mobilenet_v3_small"


def network_of(classes: int = 3, size: int = 32, **options: Any) -> nn.Module:
    return build("torchvision_model", classes=classes, size=size, options=options)


def pretrained(classes: int = 3, size: int = 32, **options: Any) -> nn.Module:
    network = network_of(classes, size, **options)
    FILE.pretrain(network, checked("torchvision_model", options))
    return network


def card_of(size: int, **options: Any) -> ModelCard:
    colours = ((0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    return ModelCard("torchvision_model", ("a", "b", "c"), Preprocessing(size, "crop", (0, 0, 0)), *colours, options)


def backbone(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in network.state_dict().items() if "classifier.3" not in key}


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A network with 5 classes, and its state_dict as torchvision's downloads are: by torch.save."""
    torch.manual_seed(1)
    network = torchvision.models.get_model(SMALL, num_classes=5)
    path = tmp_path_factory.mktemp("weights") / "donor.pth"
    torch.save(network.state_dict(), path)
    return network, path


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 32), ("vgg11_bn", 32), ("efficientnet_b0", 32), (SMALL, 32), ("squeezenet1_1", 32),
        ("convnext_tiny", 32), ("googlenet", 32), ("inception_v3", 96), ("vit_b_32", 64), ("swin_t", 32),
    ],
)  # fmt: skip
def test_every_family_gets_a_last_layer_for_the_classes(name: str, size: int) -> None:
    """From scratch, it gives logits and learns in batches; auxiliary heads are off."""
    network = network_of(name=name, size=size)
    logits = network.train()(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 3)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_file_brings_all_but_the_last_layer(donor: tuple[nn.Module, Path]) -> None:
    """Where the classes are others; where they are as many, the last layer comes too."""
    theirs, path = donor
    own = pretrained(name=SMALL, weights=str(path))
    state = own.state_dict()
    assert all(torch.equal(value, state[f"network.{key}"]) for key, value in backbone(theirs).items())
    assert state["network.classifier.3.weight"].shape == (3, 1024)
    same = pretrained(classes=5, name=SMALL, weights=str(path)).state_dict()
    assert torch.equal(same["network.classifier.3.weight"], theirs.state_dict()["classifier.3.weight"])


def test_building_reads_no_weights() -> None:
    """A checkpoint brings its own: the file may be gone by then."""
    network_of(name=SMALL, weights="gone.pth")


@pytest.mark.parametrize("kind", ["wrapped", "safetensors", "checkpoint"])
def test_weights_come_in_several_wrappings(tmp_path: Path, donor: tuple[nn.Module, Path], kind: str) -> None:
    """A training script's file, safetensors, and a checkpoint of an earlier training here."""
    theirs, _ = donor
    path = tmp_path / "weights.safetensors"
    if kind == "wrapped":
        path = tmp_path / "weights.pt"
        torch.save({"model": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "epoch": 3}, path)
    elif kind == "safetensors":
        save_file(theirs.state_dict(), path)
    else:
        earlier = network_of(classes=5, name=SMALL)
        earlier.get_submodule("network").load_state_dict(theirs.state_dict())
        weights.save(path, earlier, card_of(32, name=SMALL))
    state = pretrained(name=SMALL, weights=str(path)).state_dict()
    assert all(torch.equal(value, state[f"network.{key}"]) for key, value in backbone(theirs).items())


def test_files_of_old_names_and_other_image_sizes_fit(tmp_path: Path) -> None:
    """Densenets whose tensors had dots in their names, squeezenets' convolution at the end, a vision transformer of
    another image size: its positions are interpolated."""
    dense = torchvision.models.densenet121(num_classes=4).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in dense.items()}
    old = {key: value for key, value in old.items() if "num_batches_tracked" not in key}
    squeeze = torchvision.models.squeezenet1_1(num_classes=1000).state_dict()
    vit = torchvision.models.vit_b_32(image_size=96, num_classes=4).state_dict()
    for name, state, key in (
        ("densenet121", old, "features.conv0.weight"),
        ("squeezenet1_1", squeeze, "features.0.weight"),
        ("vit_b_32", vit, "conv_proj.weight"),
    ):
        path = tmp_path / f"{name}.pth"
        torch.save(state, path)
        loaded = pretrained(name=name, size=64, weights=str(path)).state_dict()
        assert torch.equal(loaded[f"network.{key}"], state[key])


def test_a_file_that_does_not_fit_is_a_sentence_that_names_it(tmp_path: Path, donor: tuple[nn.Module, Path]) -> None:
    """Of another network, absent, damaged, or no weights at all."""
    _, path = donor
    (tmp_path / "noise.pth").write_bytes(b"no weights")
    (tmp_path / "noise.safetensors").write_bytes(b"no weights")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    for name, file, said in (
        ("resnet18", path, f"{path} is not of resnet18 (it has no conv1.weight)"),
        ("mobilenet_v3_large", path, f"{path} is not of mobilenet_v3_large (features.2.block.0.0.weight has other"),
        (SMALL, tmp_path / "absent.pth", "absent.pth does not exist"),
        (SMALL, tmp_path / "noise.pth", "noise.pth cannot be read"),
        (SMALL, tmp_path / "noise.safetensors", "noise.safetensors cannot be read"),
        (SMALL, tmp_path / "list.pth", "list.pth holds no state_dict"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)) as error:
            pretrained(name=name, weights=str(file))
        assert "\n" not in str(error.value)


def test_without_a_network_a_download_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what file would do. The proxy is a port that nobody listens on."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"DEFAULT of resnet18 cannot be downloaded .* downloads/resnet18-\w+\.pth"):
        pretrained(name="resnet18", weights="DEFAULT")


def test_a_frozen_network_changes_in_its_last_layer_only() -> None:
    """Rates of all others are 0, and batch norm's statistics stand still while it trains; else they move."""
    images_NCHW = torch.randn(8, 3, 32, 32)
    for freeze in (True, False):
        network = network_of(name=SMALL, freeze=freeze)
        factors = FILE.learning_rates(network, checked("torchvision_model", {"name": SMALL, "freeze": freeze}))
        learning = [name for name, _ in network.named_parameters() if factors.get(name, 1.0) > 0]
        assert (learning == ["network.classifier.3.weight", "network.classifier.3.bias"]) == freeze
        before = {name: value.clone() for name, value in network.named_buffers()}
        network.train()(images_NCHW)
        still = all(torch.equal(value, before[name]) for name, value in network.named_buffers())
        assert still == freeze and network.training and not network.eval().training


def test_the_backbones_rates_are_equal_or_climb() -> None:
    """Climbing, the first layer has the factor itself and no later layer less; the last layer is not named."""
    network = network_of(name=SMALL)
    rates = {
        kind: FILE.learning_rates(
            network, checked("torchvision_model", {"name": SMALL, "backbone_rate": 0.1, "backbone_rates": kind})
        )
        for kind in ("equal", "climbing")
    }
    names = [name for name, _ in network.named_parameters() if "classifier.3" not in name]
    assert list(rates["equal"]) == list(rates["climbing"]) == names
    assert set(rates["equal"].values()) == {0.1}
    climbing = list(rates["climbing"].values())
    assert climbing == sorted(climbing) and climbing[0] == 0.1 and 0.1 < climbing[-1] < 1
    assert len(set(climbing)) <= 8


def test_statistics_are_the_weights_own_where_they_are_known() -> None:
    """torchvision knows those of its entries; a file's are the data set's unless params.yaml says ImageNet's."""

    def of(**options: Any) -> object:
        return FILE.statistics(checked("torchvision_model", options))

    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert of(name="resnet18", weights="DEFAULT") == of(name="resnet18", weights="IMAGENET1K_V1") == imagenet
    assert of(name="efficientnet_v2_l", weights="DEFAULT") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert of(name="resnet18") is of(name="resnet18", weights="some.pth") is None
    assert of(name="resnet18", weights="some.pth", statistics="imagenet") == imagenet


def test_upsampling_happens_inside_the_network() -> None:
    """Images of 32 pixels are seen as if they had come with 64."""
    torch.manual_seed(0)
    network = network_of(name="resnet18", upsample=64).eval()
    images_NCHW = torch.randn(2, 3, 32, 32)
    larger_NCHW = interpolate(images_NCHW, size=(64, 64), mode="bilinear")
    assert torch.equal(network(images_NCHW), network.get_submodule("network")(larger_NCHW))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "resnet81"}, "options.name: torchvision has no classifier 'resnet81' (did you mean resnet18?)"),
        (
            {"name": "resnet18", "weights": "IMAGENET1K_V9"},
            "options.weights is 'IMAGENET1K_V9' (did you mean IMAGENET1K_V1?): give IMAGENET1K_V1, DEFAULT or a file",
        ),
        ({"name": "inception_v3"}, "inception_v3 cannot take images of 20 x 20 pixels: set options.upsample to 224"),
        ({"name": "vit_b_16"}, "vit_b_16 cannot take images of 20 x 20 pixels"),
        ({"name": "vgg11"}, "vgg11 cannot take images of 20 x 20 pixels"),
        ({"name": "maxvit_t", "upsample": 100}, "maxvit_t cannot take images of 100 x 100 pixels"),
    ],
)
def test_wrong_names_and_sizes_are_one_sentence(options: dict[str, Any], said: str) -> None:
    """The name, the entry of weights, and images that are too small or do not divide into patches."""
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        network_of(size=20, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", SMALL, "convnext_tiny", "resnext50_32x4d", "mnasnet0_5"])
def test_a_pruned_network_comes_back_from_its_file(tmp_path: Path, name: str) -> None:
    """Shortcuts, depthwise and grouped convolutions, layer norms, and layers that version what they save."""
    card = card_of(32, name=name)
    network = weights.fresh(card)
    whole = sum(p.numel() for p in network.parameters())
    remove_channels(network, card, Prune())
    weights.save(tmp_path / "pruned.safetensors", network, card)
    loaded, _ = weights.load(tmp_path / "pruned.safetensors")
    assert sum(p.numel() for p in loaded.parameters()) < 0.4 * whole
    images_NCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images_NCHW), network.eval()(images_NCHW))


def test_what_cannot_be_cut_stays_whole_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Shuffled channels and attention heads: the network is as it was, and a warning names the layer."""
    for name, layer in (("shufflenet_v2_x0_5", "InvertedResidual"), ("swin_t", "ShiftedWindowAttention")):
        card = card_of(32, name=name)
        network = weights.fresh(card)
        whole = sum(p.numel() for p in network.parameters())
        remove_channels(network, card, Prune())
        assert sum(p.numel() for p in network.parameters()) == whole
        assert f"channels of {layer} cannot be removed" in capsys.readouterr().err
