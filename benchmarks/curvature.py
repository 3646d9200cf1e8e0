"""Time curvature against its peers: products, eigenpairs, trace and density, each with its true error.

    python benchmarks/curvature.py --data idx:DIR --peers PYTHON

`--data` is a folder with Fashion-MNIST as its authors publish it (digits if left out), `--peers` the interpreter of an
environment of its own with

    pip install torch==2.13.0 pyhessian hessian-eigenthings==1.0.0a5 tqdm
    pip install --no-deps curvlinops-for-pytorch==3.0.1 einops einconv opt-einsum linear_operator
    pip install --no-deps jaxtyping backpack-for-pytorch

Each piece runs in a fresh process, which times a gradient pass over the same data before and after: the unit. Peak
memory is that of the process. Residuals are recomputed here, in float64, from the vectors that a piece returns.

On a CUDA device (`--device cuda`) it also counts products per second for blocks of 1 to 128 vectors, and what share of
the speed of a matrix product they reach.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from workload import batches, load, seconds_of, unit_seconds

Piece = Callable[[nn.Module, Tensor, Tensor], dict[str, Any]]
PIECES: dict[str, tuple[str, Piece]] = {}  # name -> whose it is, what it does
PRODUCTS = {1: 6, 8: 3, 32: 1}  # block size -> how often it is timed
SHOWN = ("num_matvecs", "value", "interval", "hutchinson_would_take", "none_above", "strategy")
FEW = 256  # one batch, for what takes hundreds of products


def piece(owner: str) -> Callable[[Piece], Piece]:
    """Register a piece of work; `owner` is "ours" or runs in the environment of the peers."""

    def register(function: Piece) -> Piece:
        PIECES[function.__name__] = owner, function
        return function

    return register


# --- ours ------------------------------------------------------------------------------------------------------


def our_hessian(network: nn.Module, inputs: Tensor, targets: Tensor, **options: Any) -> Any:
    from landscape import Hessian, Objective

    return Hessian(Objective(network, (inputs, targets), loss=F.cross_entropy), **options)


def products_of(hessian: Any, size: int) -> dict[str, Any]:
    vectors = torch.randn(size, max(PRODUCTS), generator=torch.Generator().manual_seed(0)).to(hessian.device)
    hessian.matmat(vectors[:, :1])
    found = {}
    for block, count in PRODUCTS.items():
        found[f"block of {block}"] = median(
            seconds_of(lambda k=block: hessian.matmat(vectors[:, :k]))[0] / block for _ in range(count)
        )
    return found


@piece("ours")
def landscape_products(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """Graphs kept between products."""
    hessian = our_hessian(network, inputs, targets)
    return {"products": products_of(hessian, hessian.size), "strategy": hessian.strategy}


@piece("ours")
def landscape_products_nothing_kept(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """The same with no memory for graphs."""
    hessian = our_hessian(network, inputs, targets, memory=0)
    return {"products": products_of(hessian, hessian.size), "strategy": hessian.strategy}


@piece("ours")
def landscape_eigenpairs(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """Top 10 algebraically largest, second look and check of the residuals included."""
    from landscape import eigenpairs

    seconds, pairs = seconds_of(lambda: eigenpairs(our_hessian(network, inputs, targets), k=10, tol=1e-3))
    return {
        "seconds": seconds,
        "num_matvecs": pairs.num_matvecs,
        "vectors": pairs.vectors,
        "none_above": pairs.none_above,
    }


@piece("ours")
def landscape_eigenpairs_from_a_subset(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """The same, started from the sum of the eigenvectors for an eighth of the data."""
    from landscape import eigenpairs

    def run() -> Any:
        few = len(inputs) // 8
        coarse = eigenpairs(our_hessian(network, inputs[:few], targets[:few]), k=10, tol=3e-2)
        start = coarse.vectors.sum(dim=1, keepdim=True)
        return eigenpairs(our_hessian(network, inputs, targets), k=10, tol=1e-3, start=start)

    seconds, pairs = seconds_of(run)
    return {"seconds": seconds, "num_matvecs": pairs.num_matvecs, "vectors": pairs.vectors}


@piece("ours")
def landscape_trace(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """Half width of the 95% interval 1% of the trace; and how many products Hutchinson's would take."""
    from landscape import trace

    hessian = our_hessian(network, inputs[:FEW], targets[:FEW])
    seconds, found = seconds_of(lambda: trace(hessian, rtol=0.01))
    plain = trace(hessian, num_matvecs=60, method="hutchinson", seed=1)
    low, high = plain.interval
    needed = 60 * ((high - low) / 2 / (0.01 * abs(found.value))) ** 2
    return {
        "seconds": seconds,
        "num_matvecs": found.num_matvecs,
        "value": found.value,
        "interval": list(found.interval),
        "hutchinson_would_take": needed,
    }


@piece("ours")
def landscape_density(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """80 steps, 10 probes, reorthogonalized."""
    from landscape import spectral_density

    hessian = our_hessian(network, inputs[:FEW], targets[:FEW])
    seconds, found = seconds_of(lambda: spectral_density(hessian, steps=80, num_probes=10))
    return {"seconds": seconds, "num_matvecs": found.num_matvecs}


# --- peers -----------------------------------------------------------------------------------------------------


def eigenthings_operator(network: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(network, batches(inputs, targets), supervised_loss(F.cross_entropy))


@piece("peers")
def fresh_double_backward(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """Bare PyTorch: forward, backward and double backward for every vector."""
    parameters = list(network.parameters())
    sizes = [p.numel() for p in parameters]
    vector = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0))
    parts = [part.view_as(p) for part, p in zip(vector.split(sizes), parameters, strict=True)]

    def product() -> None:
        for x, y in batches(inputs, targets):
            gradient = torch.autograd.grad(F.cross_entropy(network(x), y), parameters, create_graph=True)
            torch.autograd.grad(gradient, parameters, parts)

    product()
    return {"products": {"block of 1": median(seconds_of(product)[0] for _ in range(5))}}


@piece("peers")
def eigenthings_product(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """hessian-eigenthings."""
    operator = eigenthings_operator(network, inputs, targets)
    vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
    operator.matvec(vector)
    return {"products": {"block of 1": median(seconds_of(lambda: operator.matvec(vector))[0] for _ in range(5))}}


@piece("peers")
def eigenthings_lanczos(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """hessian-eigenthings, 40 steps, algebraically largest."""
    from hessian_eigenthings import lanczos

    def run() -> Any:
        return lanczos(eigenthings_operator(network, inputs, targets), k=10, max_iter=40, which="LA", seed=0)

    seconds, found = seconds_of(run)
    return {"seconds": seconds, "num_matvecs": found.iterations, "vectors": found.eigenvectors.T}


@piece("peers")
def pyhessian_eigenvalues(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """PyHessian, its own stop: power iteration with deflation."""
    from pyhessian import hessian

    def run() -> Any:
        torch.manual_seed(0)
        work = hessian(network, nn.CrossEntropyLoss(), dataloader=batches(inputs, targets), cuda=False)
        return work.eigenvalues(top_n=10)

    seconds, (_, vectors) = seconds_of(run)
    return {
        "seconds": seconds,
        "vectors": torch.stack([torch.cat([part.reshape(-1) for part in vector]) for vector in vectors], dim=1),
    }


@piece("peers")
def curvlinops_density(network: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """curvlinops, 80 steps and 10 probes, without reorthogonalization."""
    import numpy as np
    from curvlinops import HessianLinearOperator, LanczosApproximateSpectrumCached

    def run() -> None:
        np.random.seed(0)
        operator = HessianLinearOperator(
            network,
            nn.CrossEntropyLoss(),
            list(network.parameters()),
            batches(inputs[:FEW], targets[:FEW]),
            check_deterministic=False,
        )
        cache = LanczosApproximateSpectrumCached(operator, 80, boundaries=(-20.0, 200.0))
        cache.approximate_spectrum(num_repeats=10, num_points=1024)

    return {"seconds": seconds_of(run)[0], "num_matvecs": 800}


# --- one piece in its own process -------------------------------------------------------------------------------


def peak_mib() -> float:
    """Largest resident memory of this process so far (Linux); unlike getrusage it is not inherited from the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_piece(name: str, path: Path, device: str) -> None:
    """Print what a piece found, its unit and the peak of its memory, as JSON."""
    network, inputs, targets = load(path)
    network, inputs, targets = network.to(device), inputs.to(device), targets.to(device)
    before = unit_seconds(network, inputs, targets)
    baseline = peak_mib()
    found = PIECES[name][1](network, inputs, targets)
    peak = peak_mib()
    after = unit_seconds(network, inputs, targets)
    vectors = found.pop("vectors", None)
    if vectors is not None:
        torch.save(vectors.detach().cpu(), path.with_name(f"{name}.pt"))
    unit = (before + after) / 2
    print(json.dumps({**found, "unit": unit, "units_spread": [before, after], "peak_mib": peak, "base_mib": baseline}))


def outcome(name: str, path: Path, interpreter: str, device: str) -> dict[str, Any]:
    command = [interpreter, __file__, "--piece", name, "--work", str(path), "--device", device]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        return {"failed": (ended.stderr.strip().splitlines() or ["?"])[-1]}
    return json.loads(ended.stdout.strip().splitlines()[-1])


# --- the whole --------------------------------------------------------------------------------------------------


def prepare(path: Path, data: str, examples: int) -> None:
    """Train the network that everything is measured on."""
    from models.architectures import build_model
    from models.data import load_data

    splits = load_data(data)
    inputs, targets = splits.train.inputs[:examples], splits.train.targets[:examples]
    torch.manual_seed(0)
    network = build_model("resnet", splits.input_shape, splits.num_classes, width=8).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(8):
        for chosen in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
    kept = {"weights": network.state_dict(), "inputs": inputs, "targets": targets, "num_classes": splits.num_classes}
    torch.save(kept, path)


def true_residuals(path: Path, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Rayleigh quotients and residuals of the normalized vectors, by float64 products."""
    from landscape import Hessian, Objective

    network, inputs, targets = load(path)
    H = Hessian(Objective(network, (inputs, targets), loss=F.cross_entropy, dtype=torch.float64), memory=0)
    V = vectors.double() / vectors.double().norm(dim=0)
    HV = H.matmat(V)
    values = (V * HV).sum(dim=0)
    return values, (HV - V * values).norm(dim=0)


def row(name: str, found: dict[str, Any], path: Path, largest: list[float]) -> str:
    if "failed" in found:
        return f"{name:<40} failed: {found['failed'][:110]}"
    unit = found["unit"]
    before, after = found["units_spread"]
    parts = [f"{name:<40} unit {before:.3f}-{after:.3f} s  peak {found['peak_mib']:6.0f} MiB"]
    parts += [f"{key} {seconds / unit:5.2f}" for key, seconds in found.get("products", {}).items()]
    if "seconds" in found:
        parts.append(f"{found['seconds']:7.1f} s = {found['seconds'] / unit:6.1f} units")
    parts += [
        f"{key} {found[key]}"
        for key in ("num_matvecs", "value", "interval", "hutchinson_would_take", "none_above", "strategy")
        if key in found
    ]
    vectors = path.with_name(f"{name}.pt")
    if vectors.exists():
        values, residuals = true_residuals(path, torch.load(vectors, weights_only=True))
        largest.append(values.max().item())
        parts.append(f"true residual / lambda_max {residuals.max().item() / max(largest):.1e}")
        parts.append(f"values {', '.join(f'{v:.4g}' for v in values.tolist())}")
    return "  ".join(parts)


def throughput(path: Path, device: str) -> None:
    """Products per second for blocks of vectors, and what share of a matrix product's speed they reach."""
    network, inputs, targets = load(path)
    hessian = our_hessian(network.to(device), inputs.to(device), targets.to(device))
    peak = flops_of_a_matmul(device)
    per_product = 2 * 3 * forward_flops(network, inputs[:1].to(device)) * len(inputs)
    for block in (1, 8, 32, 128):
        vectors = torch.randn(hessian.size, block, device=device)
        hessian.matmat(vectors)

        def run(V: Tensor = vectors) -> None:
            hessian.matmat(V)
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        seconds = median(seconds_of(run)[0] for _ in range(5))
        rate = block / seconds
        print(
            f"K = {block:<4} {rate:9.1f} products/s  {rate * per_product / peak:7.2%} of the speed of a matrix product"
        )


def forward_flops(network: nn.Module, inputs: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(inputs)
    return counter.get_total_flops()


def flops_of_a_matmul(device: str, size: int = 4096) -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    side = size if device.startswith("cuda") else size // 4
    matrix = torch.randn(side, side, device=device)

    def run() -> None:
        for _ in range(3):
            matrix @ matrix
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    run()
    return 3 * 2 * side**3 / median(seconds_of(run)[0] for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--peers", help="interpreter of the peers' environment")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", help="names of pieces")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.piece:
        run_piece(chosen.piece, chosen.work, chosen.device)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.pt"
        prepare(path, chosen.data, chosen.examples)
        network, inputs, _ = load(path)
        size = sum(p.numel() for p in network.parameters())
        print(f"{size} parameters, {len(inputs)} images {tuple(inputs.shape[1:])}, {torch.get_num_threads()} threads")
        largest: list[float] = []
        for name, (owner, _) in PIECES.items():
            interpreter = sys.executable if owner == "ours" else chosen.peers
            if interpreter and (not chosen.only or name in chosen.only):
                print(row(name, outcome(name, path, interpreter, chosen.device), path, largest), flush=True)
        if chosen.device.startswith("cuda"):
            throughput(path, chosen.device)


if __name__ == "__main__":
    main()
