"""`torchvision_model`: any classifier of torchvision.models, from scratch or from weights that there are already.

For example options: {name: resnet18, weights: downloads/resnet18-f37072fd.pth, statistics: imagenet, upsample: 128}
"""

import pickle
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
import torchvision
from pydantic import Field, model_validator
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


class Options(Section):
    name: str = "resnet18"
    """resnet18, vgg11_bn, efficientnet_b0, mobilenet_v3_small, convnext_tiny, vit_b_16, ..."""
    weights: str = ""
    """Empty: from scratch | DEFAULT or an entry of torchvision such as IMAGENET1K_V1, downloaded | a .pth, .pt or
    .safetensors file with a state_dict, whose last layer is left out where it has other classes."""
    statistics: Literal["auto", "imagenet"] = "auto"
    """Of the input. auto: those of torchvision's entry, else the data set's. imagenet: those of torchvision's files."""
    freeze: bool = False
    """true: only the last layer learns; all the others, batch norm's statistics too, stay as they are."""
    backbone_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate of all layers but the last."""
    upsample: Annotated[int, Field(ge=0, le=1024)] = 0
    """Side in pixels that images are brought to inside the network, on the device; 0 = they stay as they are."""

    @property
    def entry(self) -> Any:
        """The weights as torchvision's entry, or None."""
        return torchvision.models.get_model_weights(self.name).__members__.get(self.weights)

    @model_validator(mode="after")
    def _are_known(self) -> Self:
        names = torchvision.models.list_models(module=torchvision.models)
        if self.name not in names:
            raise UserError(f"name: torchvision has no classifier {self.name!r}; it has: {', '.join(names)}")
        if self.weights and not self.entry and not self.weights.endswith(FILES):
            entries = ", ".join(torchvision.models.get_model_weights(self.name).__members__)
            raise UserError(f"weights is {self.weights!r}: give one of {entries}, or a file ({', '.join(FILES)})")
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

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if self.frozen and isinstance(module, nn.BatchNorm2d | StochasticDepth):
                module.eval()
        return self


def build(*, classes: int, channels: int, size: int, options: Options) -> nn.Module:
    """Raises UserError where the images are too small for the network, or their side is none that it can take."""
    name, side = options.name, options.upsample or size
    extra: dict[str, Any] = {}
    if name.startswith("vit_"):
        extra = {"image_size": side}
    elif name.startswith("maxvit_"):
        extra = {"input_size": (side, side)}
    elif name in ("googlenet", "inception_v3"):
        # Trained on inputs from -1 to 1, which they make themselves of images that are normalized by ImageNet's numbers
        extra = {"aux_logits": False, "init_weights": True, "transform_input": statistics(options) == IMAGENET}
    try:
        network = torchvision.models.get_model(name, num_classes=classes, **extra).eval()
        if name.startswith("squeezenet"):
            # Its own classifier is a convolution with ReLU: no logit could be negative
            head = [nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
            network.classifier = nn.Sequential(*head)
        shapes = {key: tensor.to("meta") for key, tensor in network.state_dict().items()}  # computes nothing
        torch.func.functional_call(network, shapes, torch.empty(2, channels, side, side, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:  # patches do not fit, or a kernel is larger
        sentence = f"options.name: {name} cannot take images of {side} x {side} pixels"
        fix = "set options.upsample to 224, which all take, or ingest.image_size to a side that it can take"
        raise UserError(f"{sentence}: {fix}") from error
    return Classifier(network, options.upsample, options.freeze)


def pretrain(network: nn.Module, options: Options) -> None:
    """Load `options.weights`, without a last layer for other classes. Raises UserError where they are of no use."""
    if not options.weights:
        return
    assert isinstance(network, Classifier)
    inner, state = network.network, _state_dict(options)
    if isinstance(inner, VisionTransformer) and "encoder.pos_embedding" in state:
        state = interpolate_embeddings(inner.image_size, inner.patch_size, state)
    own, last = inner.state_dict(), _last(inner)
    if f"{last}.weight" not in state or len(state[f"{last}.weight"]) != len(own[f"{last}.weight"]):
        # squeezenet's own last layer is another one than ours
        heads = (f"{last}.", "classifier.1.") if options.name.startswith("squeezenet") else f"{last}."
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
        state |= {name: tensor for name, tensor in own.items() if name.startswith(f"{last}.")}
    if wrong := sorted(name for name, _ in _shapes(own) ^ _shapes(state)):
        sentence = f"options.weights: {options.weights} is not of {options.name} (see {wrong[0]})"
        raise UserError(f"{sentence}: give weights of this network, or name theirs in options.name")
    own.update(state)  # it holds the layers' versions, which a file may lack
    inner.load_state_dict(own, strict=False)


def statistics(options: Options) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel on the 0-1 scale that the weights want, None for the data set's own."""
    if options.statistics == "imagenet":
        return IMAGENET
    wanted = options.entry and options.entry.transforms()
    return (tuple(wanted.mean), tuple(wanted.std)) if wanted else None


def learning_rates(network: nn.Module, options: Options) -> dict[str, float]:
    """One factor for all parameters but those of the last layer."""
    assert isinstance(network, Classifier)
    factor, last = 0.0 if network.frozen else options.backbone_rate, _last(network)
    names = [name for name, _ in network.named_parameters() if not name.startswith(f"{last}.")]
    return dict.fromkeys(names, factor) if factor != 1 else {}


def _last(network: nn.Module) -> str:
    """The name of the layer that makes the logits."""
    dense: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return dense[-1]


def _shapes(state: Mapping[str, torch.Tensor]) -> set[tuple[str, torch.Size]]:
    """Old files do not count batches, and some hold the auxiliary classifiers, which are off here."""
    ignored = re.compile(r"aux\d|AuxLogits|.*num_batches_tracked")
    return {(name, tensor.shape) for name, tensor in state.items() if not ignored.match(name)}


def _state_dict(options: Options) -> dict[str, torch.Tensor]:
    try:
        if options.entry:
            content = options.entry.get_state_dict(progress=False, check_hash=True)
        elif options.weights.endswith(".safetensors"):
            content = load_file(options.weights)
        else:
            content = torch.load(options.weights, map_location="cpu", weights_only=True)
            content = content.get("state_dict", content.get("model", content))  # as training scripts store it
    except (OSError, RuntimeError, EOFError, AttributeError, SafetensorError, pickle.UnpicklingError) as error:
        sentence = f"options.weights: {options.weights} cannot be read ({str(error).splitlines()[0][:100]})"
        example = torchvision.models.get_model_weights(options.name)["DEFAULT"].url
        raise UserError(f"{sentence}: give a file with {options.name}'s state_dict, such as {example}") from None
    return {_today(name): tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def _today(name: str) -> str:
    """Without what a wrapper put in front, such as Classifier; densenets had more dots in their names."""
    plain = re.sub(r"^(module\.|network\.)+", "", name)
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", plain)
