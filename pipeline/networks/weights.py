"""Weights in safetensors, with the model card as the one metadata key: several would come in random order."""

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialized
from torch import nn

from pipeline.artifacts import ModelCard, opened, write_whole
from pipeline.networks.architectures import build


def save(path: Path, network: nn.Module, card: ModelCard) -> None:
    # safetensors refuses channels_last memory
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_whole(path, serialized(state, metadata={"card": card.to_json()}))


def weights_hash(network: nn.Module) -> str:
    """The first 16 digits of the SHA-256 of all weights and buffers: equal for equal weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load(path: Path) -> tuple[nn.Module, ModelCard]:
    """The network, on the CPU and in eval mode, whole or pruned, and its card."""
    with opened(path), safe_open(path, framework="pt") as file:
        card = ModelCard.from_json(file.metadata()["card"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    network = fresh(card)
    _take_shapes(network, state)
    whole = network.state_dict()  # it holds the layers' versions beside their tensors, which a file cannot
    whole.update(state)
    network.load_state_dict(whole)
    return network.eval(), card


def fresh(card: ModelCard) -> nn.Module:
    """A newly initialized network of the card's architecture."""
    return build(card.architecture, classes=len(card.class_names), size=card.preprocessing.size, options=card.options)


def _take_shapes(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give every layer the widths of its saved tensors: a pruned network is its architecture with fewer channels."""
    for name, module in network.named_modules():
        for leaf, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            new = torch.empty_like(state[f"{name}.{leaf}" if name else leaf])
            if new.shape != old.shape:
                setattr(module, leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1 and module.groups == module.in_channels
            module.out_channels = module.weight.shape[0]
            module.groups = module.out_channels if depthwise else module.groups
            module.in_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = module.weight.shape[0]
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
