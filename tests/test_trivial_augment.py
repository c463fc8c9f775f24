"""Each of TrivialAugment's operations is torchvision's, for each sample at a strength of its own."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from pipeline.training.trivial_augment import OPERATIONS, TrivialAugment

BILINEAR = InterpolationMode.BILINEAR
STRENGTHS = {
    "shear_x": (-0.9, 0.3), "shear_y": (-0.9, 0.3), "translate_x": (-7.0, 20.0), "translate_y": (-7.0, 20.0),
    "rotate": (-120.0, 33.0), "brightness": (-0.8, 0.9), "colour": (-0.8, 0.9), "contrast": (-0.8, 0.9),
    "sharpness": (-0.8, 0.9), "posterize": (2.0, 5.0), "solarize": (60.0, 200.0), "autocontrast": (0.0, 0.0),
    "equalize": (0.0, 0.0), "identity": (0.0, 0.0),
}  # fmt: skip


def photographs() -> torch.Tensor:
    """uint8 [2, 3, 32, 32]: smooth, coloured, with a constant channel and one that lacks levels."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    first = torch.stack([40 + 5 * x, 200 - 3 * y, (x * y) % 97 + 60])
    second = torch.stack([torch.full_like(x, 90), 30 + 2 * (x - y).abs(), 255 - 7 * y])
    return torch.stack([first, second]).to(torch.uint8)


def by_torchvision(name: str, image: torch.Tensor, strength: float) -> torch.Tensor:
    """As in TrivialAugmentWide._apply_image_or_video_transform, with bilinear interpolation."""

    def affine(translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
        made: torch.Tensor = functional.affine(
            image, 0.0, list(translate), 1.0, list(shear), BILINEAR, center=[0.0, 0.0] if any(shear) else None
        )
        return made

    slant = math.degrees(math.atan(strength))
    made: torch.Tensor = {
        "identity": lambda: image,
        "shear_x": lambda: affine(shear=(slant, 0.0)),
        "shear_y": lambda: affine(shear=(0.0, slant)),
        "translate_x": lambda: affine(translate=(int(strength), 0)),
        "translate_y": lambda: affine(translate=(0, int(strength))),
        "rotate": lambda: functional.rotate(image, strength, BILINEAR),
        "brightness": lambda: functional.adjust_brightness(image, 1 + strength),
        "colour": lambda: functional.adjust_saturation(image, 1 + strength),
        "contrast": lambda: functional.adjust_contrast(image, 1 + strength),
        "sharpness": lambda: functional.adjust_sharpness(image, 1 + strength),
        "posterize": lambda: functional.posterize(image, int(strength)),
        "solarize": lambda: functional.solarize(image, strength),
        "autocontrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
    }[name]()  # type: ignore[no-untyped-call]  # torchvision's
    return made


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_torchvisions(name: str) -> None:
    """Both images of a batch, each at its own strength, within two grey levels: torchvision rounds in between."""
    images, strengths = photographs(), STRENGTHS[name]
    made = OPERATIONS[name].apply(images.float(), torch.tensor(strengths))
    wanted = torch.stack([by_torchvision(name, *pair) for pair in zip(images, strengths, strict=True)]).float()
    assert (made - wanted).abs().max() <= 2
    assert made.min() >= 0 and made.max() <= 255


def test_operations_and_strengths_are_drawn_evenly_and_for_each_sample() -> None:
    """Black-and-white noise: as many images are left alone as identity and weak strengths say; the seed decides."""
    images = torch.randint(0, 256, (1, 3, 16, 16)).float().repeat(700, 1, 1, 1)
    made = TrivialAugment(0)(images)
    assert made.isfinite().all() and made.min() >= 0 and made.max() <= 255
    alone = (made == images).flatten(1).all(dim=1).float().mean()
    assert 1 / 14 < alone < 0.3
    assert len({image.numpy().tobytes() for image in made}) > 250
    assert torch.equal(made, TrivialAugment(0)(images))
    assert not torch.equal(made, TrivialAugment(1)(images))


def test_the_space_is_the_wide_one() -> None:
    """Fourteen operations in the ranges of torchvision's TrivialAugmentWide."""
    from torchvision.transforms.v2 import TrivialAugmentWide

    names = {"color": "colour"}
    space = TrivialAugmentWide._AUGMENTATION_SPACE
    assert len(space) == len(OPERATIONS) == 14
    for name, (levels, signed) in space.items():
        key = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_").replace("auto_", "auto")
        ours, values = OPERATIONS[names.get(key, key)], levels(31, 32, 32)
        assert ours.signed == signed
        if values is not None:
            scale = 255 if name == "Solarize" else 1
            assert (ours.weakest, ours.strongest) == pytest.approx(
                (float(values[0]) * scale, float(values[-1]) * scale)
            )
