"""How often the gate of the registry promotes a challenger that is truly so much better: a table by simulation.

    python benchmarks/gate_power.py [SIMULATIONS]      default: 10,000 for each cell

All images are single. The challenger loses as many images as LOSES times the champion's mistakes, and wins that many
and the true difference more, as far as the champion's mistakes allow it. All checks but the two of accuracy are taken
as passed; parameters are the defaults of params.yaml: registry.
"""

import sys

import numpy as np

from pipeline.config import Registry
from pipeline.evaluation.gate import accuracy_checks

IMAGES, DIFFERENCES, ACCURACIES, COMPARISONS = (
    (359, 1_000, 5_000, 10_000),
    (0.0, 0.005, 0.01, 0.02, 0.03),
    (0.9, 0.97),
    (1, 5),
)
LOSES = (0.4, 0.15)


def discordance(accuracy: float, difference: float, loses: float) -> tuple[float, float]:
    """Shares of the images that only the challenger has right, and that only the champion has."""
    mistakes = 1 - accuracy
    losses = min(loses * mistakes, mistakes - difference)
    return losses + difference, losses


def power(images: int, wins: float, losses: float, comparison: int, simulations: int) -> float:
    """Share of the simulations that end in a promotion."""
    drawn = np.random.default_rng(0).multinomial(images, [wins, losses, 1 - wins - losses], simulations)
    pairs, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    passed = [
        all(check.passed for check in accuracy_checks(int(b), int(c), images, Registry(), comparison - 1))
        for b, c in pairs
    ]
    return float(times[passed].sum() / simulations)


def main() -> None:
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for loses in LOSES:
        print(f"\nThe challenger loses {loses:.0%} of the champion's mistakes anew\n")
        print("| champion | comparison | images |", " | ".join(f"+{d:.1%}" for d in DIFFERENCES), "|")
        print("|---|---|---|" + "---|" * len(DIFFERENCES))
        for accuracy in ACCURACIES:
            for comparison in COMPARISONS:
                for images in IMAGES:
                    shares = [discordance(accuracy, difference, loses) for difference in DIFFERENCES]
                    found = [power(images, *share, comparison, simulations) for share in shares]
                    print(f"| {accuracy:.0%} | {comparison} | {images:,} |", " | ".join(f"{p:.1%}" for p in found), "|")


if __name__ == "__main__":
    main()
