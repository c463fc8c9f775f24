"""What everyone starts from, for the benchmarks of training."""

from torchvision import transforms

MODELS = ("simple_cnn", "modern_cnn", "simple_resnet")
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def usual_transforms() -> transforms.Compose:
    return transforms.Compose([
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(10),
        transforms.ColorJitter(0.2, 0.2, 0.2),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
