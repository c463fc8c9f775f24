"""`prune@MODEL`: remove whole channels, then fine-tune, so that the network is really smaller and faster.

Channels are chosen by the norm of their group of weights, following the dependencies between layers: G. Fang et al.,
DepGraph: Towards Any Structural Pruning, CVPR 2023 (https://arxiv.org/abs/2301.12900), by its library torch-pruning.
"""

import sys
from typing import Any

import torch
import torch_pruning
from torch import nn
from torchvision.models import maxvit, shufflenetv2, swin_transformer

from pipeline import layout
from pipeline.artifacts import ModelCard, write_metrics, write_table
from pipeline.config import Params, Prune, Train
from pipeline.networks import weights
from pipeline.networks.deployable import cost, last_dense
from pipeline.training.checkpointing import Checkpoints, checkpoints_of
from pipeline.training.closed_form import without_training
from pipeline.training.device import choose_device
from pipeline.training.inputs import FILES, TrainingInputs, read_inputs
from pipeline.training.loop import Fitted, fit, metrics
from pipeline.training.signals import immediate_signals

# In these channels are split into heads or shuffled, which torch-pruning cannot follow: it fails, or takes all memory
UNCUTTABLE = (
    nn.MultiheadAttention,
    maxvit.RelativePositionalMultiHeadAttention,
    shufflenetv2.InvertedResidual,
    swin_transformer.ShiftedWindowAttention,
)


def run(config: Params, name: str) -> list[str]:
    recipe, source = config.recipe(name), layout.checkpoint("train", name)
    inputs = read_inputs(recipe)
    with immediate_signals():
        network, card = weights.load(source)
        facts = [recipe, card, config.prune]
        checkpoints = checkpoints_of(layout.resume("prune", name), recipe.checkpoint_seconds, facts, [*FILES, source])
        fitted, measured = prune(network, card, inputs, recipe, config.prune, checkpoints)
        weights.save(layout.checkpoint("prune", name), fitted.network, card)
        write_table(layout.history("prune", name), fitted.history)
        write_metrics("prune", name, measured, source)
        checkpoints.clear()
    cut = [f"{measured['parameters_kept']:.1%} of the parameters", f"{measured['macs_kept']:.1%} of the work"]
    return [*cut, f"val accuracy {measured['best_val_accuracy']:.4f}"]


def prune(
    network: nn.Module, card: ModelCard, inputs: TrainingInputs, recipe: Train, config: Prune,
    checkpoints: Checkpoints | None = None,
) -> tuple[Fitted, dict[str, Any]]:  # fmt: skip
    """The smaller, fine-tuned network and its metrics.json; one that is nothing but its last layer comes through whole.
    `network` is changed in place."""
    whole_macs, whole_parameters = cost(network, card)
    rate = recipe.learning_rate * config.learning_rate_factor
    gentle = recipe.model_copy(update={"epochs": config.epochs, "learning_rate": rate})
    if sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules()) > 1:
        remove_channels(network, card, config)
        if hasattr(network, "frozen"):  # a torchvision_model's backbone: once cut, it has to learn again
            network.frozen = False  # type: ignore[assignment]  # a plain flag
        fitted = fit(network, card, inputs, gentle, checkpoints=checkpoints)
    else:
        print(f"nothing to prune: {card.architecture} has no layer but the last one")
        fitted = without_training(network, card, inputs, choose_device(recipe.device))
    macs, parameters = cost(fitted.network, card)
    left = {"macs": macs, "parameters_kept": parameters / whole_parameters, "macs_kept": macs / whole_macs}
    return fitted, metrics(fitted, card, inputs) | left


def remove_channels(network: nn.Module, card: ModelCard, config: Prune) -> None:
    """Cut the share `config.channels` from every layer but the last, whose outputs are the classes. Networks with
    attention or shuffled channels stay whole, and a warning says so."""
    stuck = {type(module).__name__ for module in network.modules() if isinstance(module, UNCUTTABLE)}
    if stuck:
        print(f"warning: channels of {stuck.pop()} cannot be removed: it is only fine-tuned", file=sys.stderr)
        return
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    example = torch.zeros(1, 3, card.preprocessing.size, card.preprocessing.size)
    torch_pruning.pruner.BasePruner(
        network.train(), example, importance, pruning_ratio=config.channels,
        ignored_layers=[last_dense(network)], round_to=config.round_to,
    ).step()  # fmt: skip
