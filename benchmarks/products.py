"""Time one Hessian product and one surface point against a plain gradient and a plain forward pass, in one run.

    python benchmarks/products.py

The units are passes over the same data (digits, 1,437 examples, small BatchNorm CNN) in bare PyTorch, with the batch
size that the objective chose. Every round times all pieces in turn, so that a drift of the machine meets all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import rounds, table

from landscape import Hessian, Objective
from landscape.directions import random_directions
from models.architectures import build_model
from models.data import load_data


def main() -> None:
    data = load_data("digits")
    inputs, targets = data.train.inputs, data.train.targets
    network = build_model("cnn", data.input_shape, data.num_classes).eval()
    objective = Objective(network, (inputs, targets), loss=F.cross_entropy)
    batches = list(zip(inputs.split(objective.batch_size), targets.split(objective.batch_size), strict=True))
    parameters = list(network.parameters())

    def forward() -> None:
        with torch.no_grad():
            for x, y in batches:
                F.cross_entropy(network(x), y)

    def gradient() -> None:
        for x, y in batches:
            torch.autograd.grad(F.cross_entropy(network(x), y), parameters)

    direction = random_directions(objective.theta, objective.layout)[0]
    hessian = Hessian(objective)
    pieces: dict[str, Callable[[], object]] = {
        "forward": forward,
        "gradient": gradient,
        "surface point": lambda: objective.metrics(objective.theta + 0.1 * direction),
        "objective.gradient": objective.gradient,
    }
    vectors = torch.randn(objective.size, 32, generator=torch.Generator().manual_seed(0))
    for count in (1, 8, 32):
        pieces[f"Hessian block of {count}"] = lambda k=count: hessian.matmat(vectors[:, :k])
    seconds = rounds(pieces)
    print(f"{objective.size} parameters, batches of {objective.batch_size}, {torch.get_num_threads()} threads")
    print(
        table(
            [
                ("surface point / forward pass", seconds["surface point"], seconds["forward"], 1),
                ("objective.gradient / gradient pass", seconds["objective.gradient"], seconds["gradient"], 1),
                ("Hessian product / gradient pass", seconds["Hessian block of 1"], seconds["gradient"], 1),
                ("... amortized over a block of 8", seconds["Hessian block of 8"], seconds["gradient"], 8),
                ("... amortized over a block of 32", seconds["Hessian block of 32"], seconds["gradient"], 32),
            ]
        )
    )


if __name__ == "__main__":
    main()
