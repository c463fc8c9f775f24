"""Any classifier of torchvision: from scratch, or from a file, with a last layer of its own."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import interpolate

from pipeline.artifacts import ModelCard
from pipeline.config import Prune
from pipeline.errors import UserError
from pipeline.networks import weights
from pipeline.networks.architectures import build, checked, find, learning_rates
from pipeline.stages.prune import remove_channels

FILE = find("torchvision_model")
SMALL = "mobilenet_v3_small"
Donor = tuple[nn.Module, Path]


def network_of(classes: int = 3, size: int = 32, **options: Any) -> nn.Module:
    return build("torchvision_model", classes=classes, size=size, options=options)


def pretrained(classes: int = 3, size: int = 32, **options: Any) -> nn.Module:
    network = network_of(classes, size, **options)
    FILE.pretrain(network, checked("torchvision_model", options))
    return network


def backbone(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in network.state_dict().items() if "classifier.3" not in key}


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Donor:
    """A network with 5 classes, and its state_dict as torchvision's downloads are: by torch.save."""
    torch.manual_seed(1)
    network = torchvision.models.get_model(SMALL, num_classes=5)
    path = tmp_path_factory.mktemp("weights") / "donor.pth"
    torch.save(network.state_dict(), path)
    return network, path


@pytest.mark.parametrize(
    ("name", "size"),
    [("vgg11_bn", 32), ("squeezenet1_1", 32), ("googlenet", 32), ("inception_v3", 96), ("vit_b_32", 64)],
)
def test_every_family_gets_a_last_layer_for_the_classes(name: str, size: int) -> None:
    """Auxiliary heads are off."""
    logits = network_of(name=name, size=size).train()(torch.zeros(2, 3, size, size))
    assert isinstance(logits, torch.Tensor) and logits.shape == (2, 3)


@pytest.mark.parametrize("origin", ["torchvision", "this project", "a script"])
def test_a_file_brings_all_but_the_last_layer(tmp_path: Path, card: ModelCard, donor: Donor, origin: str) -> None:
    """Where there are as many classes, the last layer comes too."""
    theirs, path = donor
    if origin == "this project":
        path = tmp_path / "weights.safetensors"
        weights.save(path, FILE.Classifier(theirs, 0, False), card)
    elif origin == "a script":
        path = tmp_path / "weights.pt"
        torch.save({"model": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "epoch": 3}, path)
    state = pretrained(name=SMALL, weights=str(path)).state_dict()
    assert all(torch.equal(value, state[f"network.{key}"]) for key, value in backbone(theirs).items())
    assert state["network.classifier.3.weight"].shape == (3, 1024)
    same = pretrained(classes=5, name=SMALL, weights=str(path)).state_dict()
    assert torch.equal(same["network.classifier.3.weight"], theirs.state_dict()["classifier.3.weight"])


def test_building_reads_no_weights() -> None:
    """A trained network's own file brings them: the one it started from may be gone by then."""
    network_of(name=SMALL, weights="gone.pth")


@pytest.mark.parametrize(
    ("name", "sizes", "key"),
    [
        ("densenet121", {"num_classes": 4}, "features.denseblock1.denselayer1.conv2.weight"),
        ("squeezenet1_1", {"num_classes": 1000}, "features.0.weight"),
        ("vit_b_32", {"num_classes": 4, "image_size": 96}, "conv_proj.weight"),
    ],
)
def test_files_of_torchvision_fit(tmp_path: Path, name: str, sizes: dict[str, int], key: str) -> None:
    """Old densenets had dots in their names and did not count batches, squeezenets have a convolution at the end, a
    vision transformer's positions are interpolated."""
    state = torchvision.models.get_model(name, **sizes).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in state.items()}
    torch.save({key: value for key, value in old.items() if "num_batches" not in key}, tmp_path / "old.pth")
    loaded = pretrained(name=name, size=64, weights=str(tmp_path / "old.pth")).state_dict()
    assert torch.equal(loaded[f"network.{key}"], state[key])


def test_a_file_that_does_not_fit_is_a_sentence_that_names_it(tmp_path: Path, donor: Donor) -> None:
    (tmp_path / "noise.pth").write_bytes(b"no weights")
    (tmp_path / "noise.safetensors").write_bytes(b"no weights")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    torch.save({"epoch": 3, "net": {}}, tmp_path / "other.pth")
    files = [tmp_path / name for name in ("absent.pth", "noise.pth", "noise.safetensors", "list.pth", "other.pth")]
    for name, file in [("resnet18", donor[1]), *[(SMALL, file) for file in files]]:
        with pytest.raises(UserError, match=f"options.weights: {file}"):
            pretrained(name=name, weights=str(file))


def test_without_the_internet_a_download_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what file would do. The proxy is a port that nobody listens on."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"options\.weights: DEFAULT .*/resnet18-\w+\.pth"):
        pretrained(name="resnet18", weights="DEFAULT")


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_network_changes_in_its_last_layer_only(freeze: bool) -> None:
    """Batch norm's statistics stand still too while it trains."""
    network = network_of(name=SMALL, freeze=freeze)
    factors = learning_rates(network, "torchvision_model", {"name": SMALL, "freeze": freeze})
    learning = [name for name, _ in network.named_parameters() if factors.get(name) != 0]
    assert (learning == ["network.classifier.3.weight", "network.classifier.3.bias"]) == freeze
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.train()(torch.randn(8, 3, 32, 32))
    still = all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert still == freeze and network.training and not network.eval().training


def test_the_backbone_learns_at_its_own_rate() -> None:
    network = network_of(name=SMALL)
    rates = learning_rates(network, "torchvision_model", {"name": SMALL, "backbone_rate": 0.1})
    assert rates == {name: 0.1 for name, _ in network.named_parameters() if "classifier.3" not in name}


def test_statistics_are_the_weights_own_where_they_are_known() -> None:
    def of(**options: Any) -> object:
        return FILE.statistics(checked("torchvision_model", options))

    assert of(name="efficientnet_v2_l", weights="DEFAULT") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert of() is of(weights="some.pth") is None
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert of(weights="DEFAULT") == of(weights="some.pth", statistics="imagenet") == imagenet


def test_upsampling_happens_inside_the_network() -> None:
    torch.manual_seed(0)
    network = network_of(name="resnet18", upsample=64).eval()
    images_NCHW = torch.randn(2, 3, 32, 32)
    larger_NCHW = interpolate(images_NCHW, size=(64, 64), mode="bilinear")
    assert torch.equal(network(images_NCHW), network.get_submodule("network")(larger_NCHW))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "resnet81"}, "options.name: torchvision has no classifier 'resnet81'"),
        ({"weights": "IMAGENET1K_V9"}, "options.weights is 'IMAGENET1K_V9'"),
        ({"name": "inception_v3"}, "20 x 20 pixels"),
        ({"name": "vit_b_16"}, "20 x 20 pixels"),
        ({"name": "maxvit_t", "upsample": 100}, "100 x 100 pixels"),
    ],
)
def test_wrong_names_and_sizes_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        network_of(size=20, **options)


def test_what_cannot_be_cut_stays_whole_and_says_so(card: ModelCard, capsys: pytest.CaptureFixture[str]) -> None:
    """Shuffled channels, as attention heads."""
    own = replace(card, architecture="torchvision_model", options={"name": "shufflenet_v2_x0_5"})
    network = weights.fresh(own)
    before = weights.weights_hash(network)
    remove_channels(network, own, Prune())
    assert weights.weights_hash(network) == before and "InvertedResidual" in capsys.readouterr().err
