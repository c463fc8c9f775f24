"""Augmentation draws for each sample by itself, does what its knobs say, and says what is wrong with them."""

import pytest
import torch

from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.colour import YIQ
from pipeline.augmentation.geometry import affine
from pipeline.augmentation.mixup import Mixer
from pipeline.augmentation.policy import Policy
from pipeline.augmentation.random_streams import RandomStream

CPU = torch.device("cpu")
LUMA = torch.tensor(YIQ[0])


def noise(count: int, side: int = 16, low: int = 0, high: int = 256) -> torch.Tensor:
    return torch.randint(low, high, (count, side, side, 3), generator=torch.manual_seed(0), dtype=torch.uint8)


def augmented(images_NHWC: torch.Tensor, knobs: dict[str, bool | int | float], seed: int = 0) -> torch.Tensor:
    """On the 0-1 scale: mean 0, deviation 1."""
    return Augmenter(Policy.model_validate(knobs), (0.0,) * 3, (1.0,) * 3, CPU, seed)(images_NHWC)


def different(images: torch.Tensor) -> int:
    return len({image.numpy().tobytes() for image in images})


def plain(images_NHWC: torch.Tensor) -> torch.Tensor:
    return images_NHWC.permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(("knob", "strength"), [
    ("rotation", 20), ("translation", 0.2), ("scale", 0.2), ("resized_crop", 0.3), ("brightness", 0.4),
    ("contrast", 0.4), ("saturation", 0.4), ("hue", 0.2), ("cutout", 0.3), ("erasing", 1.0),
])  # fmt: skip
def test_each_sample_has_its_own_draw_for_every_knob(knob: str, strength: float) -> None:
    """Eight copies of one image come out all different, and another seed gives other ones."""
    copies = noise(1).repeat(8, 1, 1, 1)
    made = augmented(copies, {knob: strength})
    assert different(made) == 8
    assert torch.equal(made, augmented(copies, {knob: strength}))
    assert not torch.equal(made, augmented(copies, {knob: strength}, seed=1))


@pytest.mark.parametrize("knob", ["mixup", "cutmix"])
def test_each_sample_is_mixed_in_its_own_share_with_its_own_partner(knob: str) -> None:
    """16 samples: hardly two have the same share, and hardly two the same partner."""
    _, targets = Mixer(Policy.model_validate({knob: 1.0}), CPU, 0)(torch.zeros(16, 3, 32, 32), torch.eye(16))
    assert targets.diagonal().unique().numel() > 12
    partners = (targets - targets.diagonal().diag()).argmax(dim=1)
    assert partners.unique().numel() > 12


def test_no_knob_is_plain_normalization() -> None:
    """Exactly what evaluation and the ONNX file compute."""
    images, mean, std = noise(4), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    made = Augmenter(Policy(), mean, std, CPU, 0)(images)
    wanted = (plain(images) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(made, wanted, atol=1e-5)


@pytest.mark.parametrize(("knob", "axis"), [("horizontal_flip", -1), ("vertical_flip", -2)])
def test_a_flip_is_the_mirror_image_or_nothing(knob: str, axis: int) -> None:
    """About half of the samples are mirrored, along the right axis."""
    images = noise(64)
    made, original = augmented(images, {knob: True}), plain(images)
    mirrored, same = ((made - wanted).abs().amax(dim=(1, 2, 3)) < 1e-3 for wanted in (original.flip(axis), original))
    assert (mirrored ^ same).all()
    assert 16 < mirrored.sum() < 48


def test_a_crop_keeps_its_area_and_aspect_and_stays_within_the_image() -> None:
    """All corners of the window lie in the image, flipped or not; its area is between the share and 1, its aspect 3/4
    to 4/3."""
    theta = affine(Policy(resized_crop=0.3, horizontal_flip=True), RandomStream(CPU, 0), 2000)
    assert {-1.0, 1.0} == set(theta[:, 0, 0].sign().tolist())
    width, height, centre = theta[:, 0, 0].abs(), theta[:, 1, 1], theta[:, :, 2]
    assert (centre[:, 0].abs() + width <= 1 + 1e-6).all() and (centre[:, 1].abs() + height <= 1 + 1e-6).all()
    area, aspect = width * height, width / height
    assert 0.3 <= area.min() < 0.32 and 0.98 < area.max() <= 1 + 1e-6
    assert aspect.min() >= 0.7499 and aspect.max() <= 1.3334 and aspect.max() / aspect.min() > 1.7
    whole = noise(4)
    assert torch.allclose(augmented(whole, {"resized_crop": 1.0}), plain(whole), atol=1e-3)


def fixed(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """The draws that have a spread, in their order, are these."""
    left = iter(values)
    monkeypatch.setattr(
        RandomStream, "between",
        lambda self, low, high, count: torch.full((count,), low if low == high else next(left), dtype=torch.float32),
    )  # fmt: skip


def test_brightness_contrast_and_saturation_match_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folded matrix is the same colour change as torchvision's operations one after the other."""
    from torchvision.transforms.v2 import functional

    fixed(monkeypatch, 1.2, 0.7, 1.5)
    images = noise(2, low=64, high=128)
    wanted = functional.adjust_brightness(plain(images), 1.2)
    wanted = functional.adjust_contrast(functional.adjust_saturation(wanted, 1.5), 0.7)
    made = augmented(images, {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5})
    assert torch.allclose(made, wanted, atol=2e-3)


def test_hue_turns_colours_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey stays grey and luma stays luma; no turn is the identity; a third of the circle makes red the most green."""
    grey = noise(8)[..., :1].expand(-1, -1, -1, 3)
    assert torch.allclose(augmented(grey, {"hue": 0.5}), plain(grey), atol=1e-5)
    images = noise(8)
    made = augmented(images, {"hue": 0.5})
    turned_luma, luma = ((LUMA[:, None, None] * x).sum(dim=1) for x in (made, plain(images)))
    assert torch.allclose(turned_luma, luma, atol=1e-5)
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).expand(1, 4, 4, 3)
    for angle, strongest in ((0.0, 0), (torch.pi * 2 / 3, 1), (-torch.pi * 2 / 3, 2)):
        fixed(monkeypatch, angle)
        turned = augmented(red, {"hue": 0.4})
        assert turned.argmax(dim=1).unique().tolist() == [strongest]
        assert angle or torch.allclose(turned, plain(red), atol=1e-6)


def test_rotation_turns_about_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter turn is torch's quarter turn."""
    fixed(monkeypatch, torch.pi / 2)
    assert torch.allclose(augmented(noise(2), {"rotation": 90}), plain(noise(2)).rot90(1, (-2, -1)), atol=1e-3)


def blanked(knobs: dict[str, bool | int | float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width [N] of what white images of 64 pixels lost, which is a rectangle."""
    lost = augmented(torch.full((1000, 64, 64, 3), 255, dtype=torch.uint8), knobs)[:, 0] == 0
    height, width = lost.any(dim=2).sum(dim=1), lost.any(dim=1).sum(dim=1)
    assert torch.equal(height * width, lost.sum(dim=(1, 2)))
    return height, width


def test_erasing_blanks_a_rectangle_as_often_as_it_says() -> None:
    """3 of 10 images lose 2 to 33 % of their area, of aspect 0.3 to 3.3; all lose some at 1."""
    assert (blanked({"erasing": 0.3})[0] > 0).float().mean() == pytest.approx(0.3, abs=0.05)
    height, width = blanked({"erasing": 1.0})
    share, aspect = height * width / 64**2, width / height
    assert 0.01 < share.min() < 0.05 and 0.28 < share.max() < 0.36
    assert 0.25 < aspect.min() < 0.5 and 2 < aspect.max() < 4


def test_cutout_blanks_a_square() -> None:
    """Of the side that is asked for, but where it leaves the image."""
    height, width = blanked({"cutout": 0.25})
    assert height.max() == width.max() == 16 and height.min() >= 7


@pytest.mark.parametrize("knobs", [{"mixup": 0.5}, {"cutmix": 0.5}, {"mixup": 0.5, "cutmix": 1.0}])
def test_targets_are_mixed_in_the_shares_of_the_pixels(knobs: dict[str, bool | int | float]) -> None:
    """Of ones mixed with zeros, the mean pixel is the share of the class of ones; targets remain distributions."""
    ones = torch.arange(200) % 2
    images = ones.float()[:, None, None, None].expand(-1, 3, 20, 20).contiguous()
    targets = torch.nn.functional.one_hot(ones).float()
    mixed, mixed_targets = Mixer(Policy.model_validate(knobs), CPU, 0)(images, targets)
    assert torch.allclose(mixed_targets.sum(dim=1), torch.ones(200), atol=1e-6)
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), mixed_targets[:, 1], atol=1e-5)
    # Mixup leaves an image of one value, cutmix one of two: with both on, some samples have each
    between = ((mixed > 0) & (mixed < 1)).flatten(1).all(dim=1)
    assert between.any() == ("mixup" in knobs)
    assert (mixed.flatten(1).std(dim=1) > 0).any() == ("cutmix" in knobs)


def test_beta_of_mixup_follows_alpha() -> None:
    """alpha 1 is uniform (variance 1/12); a small alpha mixes little."""
    for alpha, variance in ((1.0, 1 / 12), (0.1, 1 / 4 / 1.2)):
        assert RandomStream(CPU, 0).beta(alpha, 5000).var() == pytest.approx(variance, abs=0.01)


def test_flips_and_shifts_alone_do_not_blur() -> None:
    """Only whole pixels move: every value of the result is one of the image's, and the shifts still differ."""
    found = 255 * augmented(noise(1).repeat(64, 1, 1, 1), {"horizontal_flip": True, "translation": 0.25})
    assert torch.allclose(found, found.round(), atol=1e-2)
    assert different(found.round()) > 20
