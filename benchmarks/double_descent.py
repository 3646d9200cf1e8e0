"""Time the double descent of MLPs on MNIST-1D (9 widths, 8 seeds, 150 epochs, clean and 15% noise), and print it.

    python benchmarks/double_descent.py [--out FOLDER] [--model mlp|cnn] [--epochs 150] [--executor processes]

It is `landscape double-descent --model mlp --label-noise 0,0.15`. With --out what is finished there is not trained
again, and the seconds are then those of the rest. Goal: at most 12 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from landscape import Store
from landscape.tables import table
from models.descent import double_descent
from models.descent.rows import descent_rows, descent_words


def measure(out: Path, model: str, epochs: str, executor: str) -> None:
    started = time.perf_counter()
    path, answer = double_descent(Store(out), model=model, epochs=epochs, executor=executor, label_noise="0,0.15")
    seconds = time.perf_counter() - started
    runs = answer.sizes["noise"] * answer.sizes["size"] * answer.sizes["seed"]
    print(f"{runs} runs of {epochs} epochs in {seconds / 60:.1f} minutes on {os.cpu_count()} cores: {path}")
    curves = answer[["test_error", "test_loss", "train_error"]].sel(arm="as trained").median("seed")
    sizes = list(zip(answer["size"].values.tolist(), answer["num_parameters"].values.tolist(), strict=True))
    rows = [
        {
            "noise": float(noise),
            "width": size,
            "parameters": parameters,
            **{name.replace("_", " "): float(curves[name].sel(noise=noise, size=size)) for name in curves},
        }
        for noise in answer["noise"].values
        for size, parameters in sizes
    ]
    print("\n".join([table(rows), table(descent_rows(answer)), *descent_words(answer)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--epochs", default="150")
    parser.add_argument("--executor", default="processes")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        measure(given.out or Path(folder), given.model, given.epochs, given.executor)
