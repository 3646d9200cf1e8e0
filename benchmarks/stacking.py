"""Time runs of different seeds trained as one stack against the same runs trained one by one, in one process.

    python benchmarks/stacking.py [--members 16] [--epochs 10] [--widths 8 32 100 128 300] [--alone 4]

Both ways write whole run folders. Of the runs one by one, `--alone` are trained and their time is scaled to all; with
`--alone 16` none is left out. Seconds are those of the processor, which other work on the machine moves least, and
those of the clock.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from models.run import RunConfig, train
from models.stacking import pays, train_stack


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Processor and clock seconds of a piece of work."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def row(name: str, config: RunConfig, members: int, alone: int, out: Path) -> str:
    """Train runs of different seeds in both ways."""
    configs = [replace(config, seed=seed) for seed in range(members)]
    together = seconds(lambda: train_stack(configs, [out / f"stack{seed}" for seed in range(members)]))
    apart = seconds(lambda: [train(c, out / f"alone{c.seed}") for c in configs[:alone]])
    shutil.rmtree(out)
    steps = config.epochs * -(-(config.train_size or 4000) // int(config.batch_size)) * members
    apart = (apart[0] * members / alone, apart[1] * members / alone)
    each = f"{1e3 * together[0] / steps:>11.3f}{1e3 * apart[0] / steps:>11.3f}"
    ratios = f"{apart[0] / together[0]:>11.2f}{apart[1] / together[1]:>11.2f}"
    return f"{name:<12}{members:>8}{each}{ratios}{'yes' if pays(config, members) else 'no':>7}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[16])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--widths", type=int, nargs="*", default=[8, 32, 100, 128, 300])
    parser.add_argument("--channels", type=int, nargs="*", default=[4, 16])
    parser.add_argument("--alone", type=int, default=4)
    asked = parser.parse_args()
    base = RunConfig(
        data="mnist1d", model="mlp", lr=0.01, momentum=0.9, batch_size=100, val_fraction=0.0, snapshots="none"
    )
    rows = [(f"mlp {width}", replace(base, width=width, epochs=asked.epochs)) for width in asked.widths]
    cnn = replace(base, model="cnn", norm="group", width=4, depth=2, train_size=1000, epochs=max(asked.epochs // 3, 1))
    rows += [(f"cnn {width}", replace(cnn, width=width)) for width in asked.channels]
    print(f"{'':<20}{'ms of processor a step and run':>22}{'':>3}{'faster by, in seconds of':>22}")
    print(f"{'model':<12}{'runs':>8}{'stacked':>11}{'alone':>11}{'processor':>11}{'clock':>11}{'pays':>7}")
    with tempfile.TemporaryDirectory() as folder:
        train_stack([replace(base, epochs=1)], [Path(folder) / "warm" / "up"])
        train(replace(base, epochs=1, seed=1), Path(folder) / "warm" / "alone")
        for name, config in rows:
            for members in asked.members:
                print(row(name, config, members, min(asked.alone, members), Path(folder) / "runs"), flush=True)


if __name__ == "__main__":
    main()
