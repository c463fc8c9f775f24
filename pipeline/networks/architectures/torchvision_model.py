"""`torchvision_model`: any classifier of torchvision.models, from scratch or from weights that there are already.

    models:
      tuned:
        architecture: torchvision_model
        options: {name: resnet18, weights: downloads/resnet18-f37072fd.pth, statistics: imagenet, upsample: 128}

The last layer is made for the number of classes. What training starts from is loaded by `pretrain`, so that a network
that is built for its checkpoint needs neither the file nor the net.
"""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torchvision
from pydantic import Field, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings
from torchvision.ops import StochasticDepth

from pipeline.config import Section
from pipeline.errors import UserError

FILES = (".safetensors", ".pth", ".pt")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MADE_FOR = 224  # pixels: what all of these networks can take
# Rates that climb do so in this many steps: the optimizer is given a group of parameters for each
STEPS = 8


class Options(Section):
    # resnet18, vgg11_bn, efficientnet_b0, mobilenet_v3_small, convnext_tiny, vit_b_16, ...
    name: str = "resnet18"
    # "" = from scratch | DEFAULT or an entry of torchvision such as IMAGENET1K_V1, downloaded | a .pth, .pt or
    # .safetensors file with weights, whose last layer is left out where it has other classes.
    weights: str = ""
    # Mean and deviation of the input. auto: an entry's own, else the data set's. imagenet: of torchvision's own files.
    statistics: Literal["auto", "imagenet"] = "auto"
    # true: only the last layer learns; all the others, batch norm's statistics too, stay as they are.
    freeze: bool = False
    # Factor on the learning rate of all layers but the last.
    backbone_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    # equal: all of them by that factor. climbing: the first by it, later ones by more and more, up to 1 at the last
    # (discriminative fine-tuning: Howard and Ruder 2018, https://arxiv.org/abs/1801.06146).
    backbone_rates: Literal["equal", "climbing"] = "equal"
    # Side in pixels that images are brought to inside the network, on the device; 0 = they stay as they are.
    upsample: Annotated[int, Field(ge=0, le=1024)] = 0

    @field_validator("name")
    @classmethod
    def _is_there(cls, name: str) -> str:
        names = torchvision.models.list_models(module=torchvision.models)
        if name not in names:
            raise UserError(f"torchvision has no classifier {name!r}{_close(name, names)}; it has: {', '.join(names)}")
        return name

    @model_validator(mode="after")
    def _weights_are_an_entry_or_a_file(self) -> Options:
        entries = list(torchvision.models.get_model_weights(self.name).__members__)
        if self.weights and self.weights not in entries and not self.weights.endswith(FILES):
            raise UserError(
                f"weights is {self.weights!r}{_close(self.weights, entries)}: give {', '.join(entries)} or a file that "
                f"ends in {', '.join(FILES)}"
            )
        return self


class Classifier(nn.Module):
    """torchvision's network behind the upsampling; a frozen one keeps its batch norms and its depth while training."""

    def __init__(self, network: nn.Module, upsample: int, frozen: bool) -> None:
        super().__init__()
        self.network, self.upsample, self.frozen = network, upsample, frozen

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        if self.upsample:
            images_NCHW = interpolate(images_NCHW, size=(self.upsample, self.upsample), mode="bilinear")
        logits: torch.Tensor = self.network(images_NCHW)
        return logits

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        for module in self.modules():
            if self.frozen and isinstance(module, nn.BatchNorm2d | StochasticDepth):
                module.eval()
        return self


def build(*, classes: int, channels: int, size: int, options: Options) -> nn.Module:
    """Raises UserError where the images are too small for the network, or their side is none that it can take."""
    if channels != 3:
        raise UserError(f"torchvision_model: {options.name} takes images with 3 channels, not {channels}")
    side = options.upsample or size
    network = _network(options, classes, side)
    if network is None:
        raise UserError(
            f"torchvision_model: {options.name} cannot take images of {side} x {side} pixels: set options.upsample to "
            f"{MADE_FOR}, which it was made for, or ingest.image_size to a side that it can take"
        )
    return Classifier(network, options.upsample, options.freeze)


def pretrain(network: nn.Module, options: Options) -> None:
    """Load `options.weights`. Raises UserError when they cannot be had, or are not this network's."""
    assert isinstance(network, Classifier)
    if options.weights:
        found = _read(Path(options.weights)) if _is_file(options) else _downloaded(options)
        _take(network.network, found, options)


def statistics(options: Options) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel on the 0-1 scale that the weights want, None for the data set's own."""
    if options.statistics == "imagenet":
        return IMAGENET
    if not options.weights or _is_file(options):
        return None
    wanted = _entry(options).transforms()
    return tuple(wanted.mean), tuple(wanted.std)


def learning_rates(network: nn.Module, options: Options) -> dict[str, float]:
    """Factors for all parameters but those of the last layer; none where that learns as the rest does."""
    assert isinstance(network, Classifier)
    last, _ = _last(network)
    backbone = [name for name, _ in network.named_parameters() if not name.startswith(f"{last}.")]
    if network.frozen:
        return dict.fromkeys(backbone, 0.0)
    if options.backbone_rate == 1:
        return {}
    if options.backbone_rates == "equal":
        return dict.fromkeys(backbone, options.backbone_rate)
    # torchvision defines its layers in the order in which images pass them
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in backbone))
    step = {layer: place * STEPS // len(layers) for place, layer in enumerate(layers)}
    return {name: options.backbone_rate ** (1 - step[name.rpartition(".")[0]] / STEPS) for name in backbone}


def _network(options: Options, classes: int, side: int) -> nn.Module | None:
    """torchvision's network with a layer for `classes` at its end; None where it cannot take images of that side."""
    name = options.name
    extra: dict[str, Any] = {}
    if name.startswith("vit_"):
        extra = {"image_size": side}
    elif name.startswith("maxvit_"):
        extra = {"input_size": (side, side)}
    elif name in ("googlenet", "inception_v3"):
        # Trained on inputs from -1 to 1, which they make themselves of images that are normalized by ImageNet's numbers
        by_imagenet = statistics(options) == IMAGENET
        extra = {"aux_logits": False, "init_weights": True, "transform_input": by_imagenet}
    try:
        network: nn.Module = torchvision.models.get_model(name, num_classes=classes, **extra).eval()
    except (AssertionError, ValueError):  # of a transformer whose patches do not fit into the image
        return None
    if name.startswith("squeezenet"):
        # Its own classifier is a convolution with ReLU: no logit could be negative
        network.classifier = nn.Sequential(nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    shapes = {key: tensor.to("meta") for key, tensor in network.state_dict().items()}  # computes nothing
    try:
        torch.func.functional_call(network, shapes, torch.empty(2, 3, side, side, device="meta"))
    except RuntimeError:  # an image that is smaller than a kernel
        return None
    return network


def _last(network: nn.Module) -> tuple[str, nn.Linear]:
    """The layer that makes the logits, and its name."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def _is_file(options: Options) -> bool:
    return options.weights.endswith(FILES)


def _entry(options: Options) -> Any:
    return torchvision.models.get_model_weights(options.name)[options.weights]


def _downloaded(options: Options) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = _entry(options).get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or a file whose hash is wrong
        raise UserError(
            f"options.weights: {options.weights} of {options.name} cannot be downloaded ({error}): give a local file "
            f"with these weights, e.g. downloads/{_entry(options).url.rpartition('/')[2]}"
        ) from None
    return state


def _read(path: Path) -> dict[str, torch.Tensor]:
    """A state_dict, by itself or under the key that training scripts store it under."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"options.weights: {path} does not exist: give the path of a file with weights") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(
            f"options.weights: {path} cannot be read ({reason}): give a state_dict, by torch.save or as safetensors"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"options.weights: {path} holds no state_dict: save network.state_dict() with torch.save")
    return dict(content)


def _take(network: nn.Module, found: Mapping[str, torch.Tensor], options: Options) -> None:
    """Copy the weights into the network, but for those of a last layer with other classes."""
    own = network.state_dict()
    state = {_as_today(name): tensor for name, tensor in found.items()}
    last, layer = _last(network)
    heads = {name for name in {*own, *state} if name.startswith(f"{last}.")}
    if options.name.startswith("squeezenet"):
        heads |= {"classifier.1.weight", "classifier.1.bias"}
    if isinstance(network, VisionTransformer) and "encoder.pos_embedding" in state:
        state = interpolate_embeddings(network.image_size, network.patch_size, state)
    kept = state.get(f"{last}.weight")
    if kept is None or (kept.shape != layer.weight.shape and kept.shape[1:] == layer.weight.shape[1:]):
        own = {name: tensor for name, tensor in own.items() if name not in heads}
        state = {name: tensor for name, tensor in state.items() if name not in heads}
    # Old files do not count batches, and some hold the auxiliary classifiers, which are off here
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own and not re.match(r"aux\d|AuxLogits", name)]
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or unknown or shapes:
        wrong = f"{shapes[0]} has other sizes" if shapes else f"it has no {missing[0]}" if missing else unknown[0]
        raise UserError(
            f"options.weights: {options.weights} is not of {options.name} ({wrong}): give weights of this network, "
            f"or name theirs in options.name"
        )
    with torch.no_grad():
        for name in own.keys() & state.keys():
            own[name].copy_(state[name])


def _as_today(name: str) -> str:
    """The name of a tensor without what a wrapper put in front, such as Classifier; densenets had dots in theirs."""
    name = re.sub(r"^(module\.|network\.)+", "", name)
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)


def _close(wrong: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wrong, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
