"""Images per second of augmentation: ours, the usual DataLoader of PIL images, and torchvision on whole batches.

    python benchmarks/augmentation.py [DIR]     DIR: CLASS/*.jpg of one size; default: scikit-learn's digits, 32 pixels

The first three do the same: flip, rotation by 10 degrees, brightness, contrast and saturation by 0.2, normalization.
torchvision on whole batches draws once for the batch, so its samples are all flipped and turned alike: it is here for
its speed alone. All start from uint8 in memory and end in float32 batches of 128. The rounds are interleaved, and the
table gives ratios, which a busy machine spoils less than absolute numbers. There, set OMP_WAIT_POLICY=PASSIVE: a thread
that spins while it waits for the other one takes the core that the other one needs.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.mixup import Mixer
from pipeline.augmentation.policy import POLICIES, Policy

SIZE, BATCH, IMAGES, ROUNDS, WORKERS = 32, 128, 3840, 5, 2
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CPU = torch.device("cpu")
SAME = Policy(horizontal_flip=True, rotation=10, brightness=0.2, contrast=0.2, saturation=0.2)
USUAL = "usual: PIL in a DataLoader"


def digits() -> np.ndarray:
    """uint8 [1797, 32, 32, 3]."""
    from sklearn.datasets import load_digits

    scans = (load_digits().images * (255 / 16)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(scan).convert("RGB").resize((SIZE, SIZE))) for scan in scans])


def photographs(folder: Path) -> np.ndarray:
    """uint8 [n, H, W, 3], taken evenly from the folder."""
    files = sorted(folder.glob("*/*.jpg"))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files[:: -(-len(files) // IMAGES)]])


class Usual(Dataset[torch.Tensor]):
    """What most training scripts do: one image at a time, through PIL."""

    transform = transforms.Compose([
        transforms.RandomHorizontalFlip(), transforms.RandomRotation(10), transforms.ColorJitter(0.2, 0.2, 0.2),
        transforms.ToTensor(), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip

    def __init__(self, images_NHWC: np.ndarray) -> None:
        self.images_NHWC = images_NHWC

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def __getitem__(self, index: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(Image.fromarray(self.images_NHWC[index]))
        return image


def whole_batches(images_NHWC: torch.Tensor) -> Iterable[torch.Tensor]:
    transform = v2.Compose([
        v2.RandomHorizontalFlip(), v2.RandomRotation(10), v2.ColorJitter(0.2, 0.2, 0.2),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
    ])  # fmt: skip
    for batch in torch.randperm(len(images_NHWC)).split(BATCH):
        yield transform(images_NHWC[batch].permute(0, 3, 1, 2))


def ours(images_NHWC: torch.Tensor, policy: Policy) -> Iterable[torch.Tensor]:
    augment, mix = Augmenter(policy, MEAN, STD, CPU, 0), Mixer(policy, CPU, 0)
    targets = torch.eye(10)
    for batch in torch.randperm(len(images_NHWC)).split(BATCH):
        yield mix(augment(images_NHWC.index_select(0, batch)), targets[batch % 10])[0]


def seconds(batches: Iterable[torch.Tensor]) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def main() -> None:
    found = photographs(Path(sys.argv[1])) if len(sys.argv) > 1 else digits()
    images = np.resize(found, (IMAGES, *found.shape[1:]))  # repeats or cuts
    tensor = torch.from_numpy(images)
    policies = {"the same": SAME, **POLICIES}
    policies |= {"mixup + cutmix": Policy(mixup=0.2, cutmix=1.0), "resized_crop": Policy(resized_crop=0.3)}
    # Its workers live on between the rounds: their start is not counted
    loader = DataLoader(Usual(images), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    contenders: Mapping[str, Callable[[], Iterable[torch.Tensor]]] = {
        "torchvision, one draw a batch": partial(whole_batches, tensor)
    } | {f"ours: {name}": partial(ours, tensor, policy) for name, policy in policies.items()}
    times: dict[tuple[str, int], list[float]] = {}
    for round_number in range(ROUNDS + 1):
        timed = {(USUAL, WORKERS): seconds(loader)}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            timed |= {(name, threads): seconds(contender()) for name, contender in contenders.items()}
        for key, value in timed.items():
            if round_number:  # the first round warms up
                times.setdefault(key, []).append(value)
    usual = statistics.median(times[USUAL, WORKERS])
    shape = " x ".join(map(str, images.shape[1:]))
    print(f"{IMAGES:,} images of {shape}, batches of {BATCH}, {ROUNDS} rounds, medians")
    print(f"{USUAL:31} {WORKERS} workers {IMAGES / usual:9,.0f} images/s")
    for name in contenders:
        for threads in (1, 2):
            middle = statistics.median(times[name, threads])
            print(f"{name:31} {threads} thread(s) {IMAGES / middle:9,.0f} images/s {usual / middle:6.1f} x the usual")


if __name__ == "__main__":
    main()
