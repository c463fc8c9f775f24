"""How often does the gate promote the same recipe with another seed? In a workspace after `dvc repro augment`:

    python benchmarks/gate_noise.py simple_cnn 21

Trains the model with so many seeds and judges every ordered pair by the gate as a first comparison on the test split,
and all of them one after the other, in the order of the seeds and in reverse, as comparisons that are counted.
"""

import sys

import numpy as np

from pipeline.artifacts import read_dataset
from pipeline.config import load
from pipeline.evaluation.gate import Candidate, judge
from pipeline.networks.deployable import probabilities
from pipeline.stages.train import train
from pipeline.training.device import choose_device
from pipeline.training.inputs import read_card, read_inputs


def main(model: str, seeds: int) -> None:
    config, dataset = load(), read_dataset()
    recipe = config.recipe(model).model_copy(update={"seeds": seeds})
    inputs = read_inputs(recipe)
    card = read_card(config.models[model], inputs.class_names)
    networks = train(card, inputs, recipe).networks
    images, labels = dataset.of("test")
    group = dataset.splits["group"].to_numpy()[dataset.rows("test")]
    device, equal = choose_device(recipe.device), np.ones(100)
    scored = [
        Candidate(str(seed), probabilities(networks[seed], card, images, device), 1.0, equal)
        for seed in sorted(networks)
    ]

    def promoted(challenger: Candidate, champion: Candidate, earlier: int) -> bool:
        verdict = judge(challenger, champion, labels, group, dataset.class_names, config.registry, earlier)
        return verdict.outcome == "promoted"

    right = [float((each.probabilities.argmax(axis=1) == labels).mean()) for each in scored]
    spread = f"{np.mean(right):.4f}, standard deviation {np.std(right):.4f}"
    print(f"{model}, {seeds} seeds, {len(labels)} test images: {spread}")
    pairs = [promoted(a, b, 0) for a in scored for b in scored if a is not b]
    print(f"ordered pairs: {sum(pairs)} of {len(pairs)} promoted as a first comparison")
    print(f"by accuracy alone: {sum(a > b for a in right for b in right)} of {len(pairs)}")
    for order in (scored, scored[::-1]):
        champion, replaced = order[0], 0
        for earlier, challenger in enumerate(order[1:]):
            if promoted(challenger, champion, earlier):
                champion, replaced = challenger, replaced + 1
        print(f"one after the other from seed {order[0].version}: {replaced} of {seeds - 1} replaced the champion")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
