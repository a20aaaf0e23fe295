"""Constrain a trained classifier, fine-tune it, and hand on a plain state dict.

    python examples/fine_tune.py

On the handwritten digits of scikit-learn: a network is trained, its hidden layers are made
orthogonal and the rows of its last layer unit vectors, it is fine-tuned with smaller steps for
earlier layers, baked, and loaded by code that knows nothing of constraints.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy, linear

from constrainedparams import (
    Orthogonal,
    Positive,
    Sphere,
    bake,
    parameter_groups,
    register_constrained_parameters,
    summary,
    violations,
)

PATTERNS = {
    "body.*.weight": Orthogonal(),
    "head.weight": Sphere(),  # every row
    "head.scale": Positive(),
}


class Cosines(nn.Module):
    """Scores: a learnt scale times the products with one vector for each class."""

    def __init__(self, width, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width) / width**0.5)
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, h):
        return self.scale * linear(h, self.weight)


class Classifier(nn.Module):
    """Any network: nothing in here knows of constraints."""

    def __init__(self, width=64, depth=3):
        super().__init__()
        layers = [nn.Sequential(nn.Linear(64, width), nn.Tanh()) for _ in range(depth)]
        for layer, _ in layers:
            nn.init.orthogonal_(layer.weight)
        self.body = nn.Sequential(*layers)
        self.head = Cosines(width, classes=10)

    def forward(self, pixels):
        return self.head(self.body(pixels))


def digits():
    """(training inputs, their classes, test inputs, their classes); pixels between -1 and 1."""
    data = load_digits()
    parts = train_test_split(data.data / 8 - 1, data.target, stratify=data.target, random_state=0)
    inputs, test_inputs, classes, test_classes = parts
    return (
        torch.tensor(inputs, dtype=torch.float32),
        torch.tensor(classes),
        torch.tensor(test_inputs, dtype=torch.float32),
        torch.tensor(test_classes),
    )


def train(model, optimizer, inputs, classes, epochs):
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(128):
            optimizer.zero_grad()
            cross_entropy(model(inputs[batch]), classes[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model, inputs, classes):
    return 100 * (model(inputs).argmax(-1) == classes).float().mean().item()


def layer_wise(model, rate):
    """Half the step for each layer further from the output; no decay for what is constrained."""
    groups = []
    for depth, layer in enumerate([model.head, *reversed(model.body)]):
        lr = rate * 0.5**depth
        groups += parameter_groups(layer, {"lr": lr}, lr=lr, weight_decay=0.01)
    return groups


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for the files")
    parser.add_argument("--epochs", type=int, default=20, help="of training, and of fine-tuning")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.manual_seed(0)
    inputs, classes, *test = digits()

    model = Classifier()
    train(model, torch.optim.Adam(model.parameters(), lr=3e-3), inputs, classes, options.epochs)
    print(f"trained:               {accuracy(model, *test):.1f} % of the test digits\n")

    print(register_constrained_parameters(model, PATTERNS, dry_run=True), end="\n\n")
    register_constrained_parameters(model, PATTERNS)  # logs how far each value was moved
    print(f"moved onto their sets: {accuracy(model, *test):.1f} %")

    optimizer = torch.optim.AdamW(layer_wise(model, rate=1e-3))
    train(model, optimizer, inputs, classes, options.epochs)
    print(f"fine-tuned:            {accuracy(model, *test):.1f} %\n")
    print(summary(model), end="\n\n")
    furthest = max(violations(model).values())
    print(f"furthest from its set: {furthest:.1e}")

    # The checkpoint to go on training from, and the weights for everybody else.
    torch.save(model.state_dict(), options.output / "fine_tuned.pt")
    torch.save(bake(model).state_dict(), options.output / "baked.pt")

    plain = Classifier()
    plain.load_state_dict(torch.load(options.output / "baked.pt", weights_only=True))
    same = torch.equal(plain(test[0]), model(test[0]))
    print(f"baked and loaded:      {accuracy(plain, *test):.1f} %, the same outputs: {same}")

    logging.disable(logging.INFO)  # how far this start is from the sets is of no interest
    again = Classifier()
    register_constrained_parameters(again, PATTERNS)
    again.load_state_dict(torch.load(options.output / "fine_tuned.pt", weights_only=True))
    same = torch.equal(again(test[0]), model(test[0]))
    print(f"checkpoint loaded:     {accuracy(again, *test):.1f} %, the same outputs: {same}")


if __name__ == "__main__":
    main()
