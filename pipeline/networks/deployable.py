"""The network as it is shipped: uint8 images in, logits and probabilities out; also how torch itself is evaluated."""

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.artifacts import Images, ModelCard

PIXELS = 1 << 18  # of the images of a batch: what a network makes of them takes hundreds of times as much memory


class Deployable(nn.Module):
    """Wraps a network so that scaling and normalization are part of the graph."""

    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        mean, std = torch.tensor(card.mean), torch.tensor(card.std)
        # (x / 255 - mean) / std as one multiplication and one addition per pixel
        self.register_buffer("factor", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("offset", (-mean / std).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [N, H, W, 3] -> logits [N, classes], probabilities [N, classes]."""
        # contiguous(): without it the exporter emits as_strided and shape arithmetic, which cannot be quantized
        images_NCHW = image.permute(0, 3, 1, 2).contiguous().to(torch.float32)
        logits = self.network(images_NCHW * self.factor + self.offset)
        return logits, torch.softmax(logits, dim=1)


@torch.inference_mode()
def probabilities(network: nn.Module, card: ModelCard, images_NHWC: Images, device: torch.device) -> np.ndarray:
    """float32 [N, classes], in float32 arithmetic, whatever precision the training used."""
    model = Deployable(network, card).to(device).eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a GPU's convolutions round to 10 bits else
        batch = max(1, PIXELS // card.preprocessing.size**2)
        starts = range(0, len(images_NHWC), batch)
        parts = [model(torch.tensor(images_NHWC[i : i + batch]).to(device))[1].cpu() for i in starts]
    result: np.ndarray = torch.cat(parts).numpy()
    return result


def cost(network: nn.Module, card: ModelCard) -> tuple[int, int]:
    """Multiply-accumulates for one image, as `describe` counts them, and parameters."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, card.preprocessing.size, card.preprocessing.size))
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in network.parameters())


def last_dense(network: nn.Module) -> nn.Linear:
    """The layer that gives the classes' logits."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def features(network: nn.Module, card: ModelCard, images_NHWC: Images, device: torch.device) -> np.ndarray:
    """float32 [N, features]: what the network's last dense layer is given."""
    seen: list[torch.Tensor] = []
    with last_dense(network).register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].float().cpu())):
        probabilities(network, card, images_NHWC, device)
    found: np.ndarray = torch.cat(seen).numpy()
    return found
