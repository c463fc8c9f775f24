"""`prune@MODEL`: remove whole channels, then fine-tune, so that the network is really smaller and faster.

Channels are chosen by the norm of their group of weights, following the dependencies between layers: G. Fang et al.,
DepGraph: Towards Any Structural Pruning, CVPR 2023 (https://arxiv.org/abs/2301.12900), by its library torch-pruning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning
from torch import nn
from torchvision.models import maxvit, shufflenetv2, swin_transformer

from pipeline.artifacts import Dataset, ModelCard
from pipeline.augmentation.policy import Policy
from pipeline.config import Prune, Train
from pipeline.networks.architectures import learning_rates
from pipeline.networks.deployable import last_dense
from pipeline.stages.train import metrics, training_data
from pipeline.training.balance import Balance
from pipeline.training.checkpointing import NOWHERE, Vault
from pipeline.training.closed_form import as_it_is
from pipeline.training.device import choose_device
from pipeline.training.loop import Fitted, fit
from pipeline.training.progress import Epoch

# In these channels are split into heads or shuffled, which torch-pruning cannot follow: it fails, or takes all memory
UNCUTTABLE = (
    nn.MultiheadAttention,
    maxvit.RelativePositionalMultiHeadAttention,
    shufflenetv2.InvertedResidual,
    swin_transformer.ShiftedWindowAttention,
)


def prune(
    network: nn.Module,
    card: ModelCard,
    dataset: Dataset,
    balance: Balance,
    policy: Policy,
    recipe: Train,
    config: Prune,
    on_epoch: Callable[[Epoch], None],
    vault: Vault = NOWHERE,
) -> tuple[Fitted, dict[str, Any]]:
    """The smaller, fine-tuned network and its metrics.json. `network` is changed in place.

    A network that is nothing but its last layer comes through whole.
    """
    whole_macs, whole_parameters = _cost(network, card)
    gentle = recipe.model_copy(
        update={"epochs": config.epochs, "learning_rate": recipe.learning_rate * config.learning_rate_factor}
    )
    data = training_data(dataset, balance, gentle)
    if has_channels(network):
        remove_channels(network, card, config)
        if hasattr(network, "frozen"):  # a torchvision_model's backbone: once cut, it has to learn again
            network.frozen = False  # type: ignore[assignment]  # a plain flag
        rates = learning_rates(network, card.architecture, card.options)
        fitted = fit(network, card, data, gentle, policy, on_epoch, rates=rates, vault=vault)
    else:
        print(f"nothing to prune: {card.architecture} has no layer but the last one")
        fitted = as_it_is(network, card, data, choose_device(recipe.device))
    macs, parameters = _cost(fitted.network, card)
    measured = metrics(fitted, card, dataset, data)
    return fitted, measured | {
        "macs": macs,
        "parameters_kept": parameters / whole_parameters,
        "macs_kept": macs / whole_macs,
    }


def has_channels(network: nn.Module) -> bool:
    """Whether there is a layer but the last, whose outputs are the classes."""
    last = last_dense(network)
    return any(isinstance(layer, nn.Conv2d | nn.Linear) and layer is not last for layer in network.modules())


def remove_channels(network: nn.Module, card: ModelCard, config: Prune) -> None:
    """Cut the share `config.channels` from every layer but the last, whose outputs are the classes.

    Networks with attention or shuffled channels stay whole, and a warning says so.
    """
    stuck = [module for module in network.modules() if isinstance(module, UNCUTTABLE)]
    if stuck:
        kind = type(stuck[0]).__name__
        print(f"warning: nothing is pruned: channels of {kind} cannot be removed; it is fine-tuned", file=sys.stderr)
        return
    pruner = torch_pruning.pruner.BasePruner(
        network.train(),
        _example(card),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=config.channels,
        ignored_layers=[last_dense(network)],
        round_to=config.round_to,
    )
    pruner.step()


def _cost(network: nn.Module, card: ModelCard) -> tuple[int, int]:
    """Multiply-accumulate operations for one image, and parameters."""
    macs, parameters = torch_pruning.utils.count_ops_and_params(network.eval(), _example(card))
    return int(macs), int(parameters)


def _example(card: ModelCard) -> torch.Tensor:
    side = card.preprocessing.size
    return torch.zeros(1, 3, side, side)
