from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F

from landscape.eigen import eigenpairs
from landscape.objective import Objective
from landscape.operators import Distributed, GaussNewton, Hessian, LinearOperator, Sharded
from tests.problems import built, network, perceptron, quadratic, rotated, seeded, vectors

SIZES = (12, 7, 4)
LONG = torch.linspace(-1, 3, 150, dtype=torch.float64)  # long enough for Lanczos


def whole_and_shards(operator=Hessian, dtype=torch.float64):
    model, (inputs, targets) = network("BatchNorm", dtype)
    whole = operator(Objective(model, (inputs, targets), loss=F.cross_entropy))
    parts = zip(inputs.split(SIZES), targets.split(SIZES), strict=True)
    return whole, [operator(Objective(model, part, loss=F.cross_entropy)) for part in parts]


@pytest.mark.parametrize("operator", [Hessian, GaussNewton])
def test_shards_of_unequal_size_are_the_operator_over_all_of_the_data(operator):
    whole, shards = whole_and_shards(operator)
    sharded = Sharded.of(shards)
    assert torch.allclose(sharded.dense(), whole.dense(), atol=1e-14)
    assert sharded.shares == pytest.approx([size / 23 for size in SIZES])
    plain = Sharded([(shard, 1) for shard in shards])
    assert (plain.dense() - whole.dense()).abs().max() > 1e-3  # negative control: a mean of means is something else


def test_weights_are_relative():
    A, B = rotated([3.0, 1.0], seed=1), rotated([-2.0, 5.0], seed=2)
    mean = Sharded([(Hessian(quadratic(A)), 10), (Hessian(quadratic(B)), 30)])
    assert torch.allclose(mean.dense(), A / 4 + 3 * B / 4, atol=1e-14)


def test_sharded_eigenpairs_are_those_of_the_whole():
    whole, shards = whole_and_shards(dtype=torch.float32)
    a, b = (eigenpairs(operator, k=3) for operator in (whole, Sharded.of(shards)))
    assert torch.allclose(a.values, b.values, rtol=1e-4)


def test_refusals_of_shards():
    one, two = Hessian(quadratic(rotated([1.0, 2.0]))), Hessian(quadratic(rotated([1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match=r"at least one pair \(operator, weight\)"):
        Sharded([])
    with pytest.raises(ValueError, match=r"operators of sizes \[2, 3\]"):
        Sharded([(one, 1), (two, 1)])
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weights must be positive"):
            Sharded([(one, 1), (one, weight)])
    with pytest.raises(TypeError, match="examples behind a Sharded is not known; give its weight"):
        Sharded.of([Sharded([(one, 1)])])
    with pytest.raises(RuntimeError, match="needs torch.distributed; call"):
        Distributed(one)


class Failing(LinearOperator):
    size, device, dtype = 52, torch.device("cpu"), torch.float64

    def matmat(self, V):
        raise MemoryError("out of memory")


def in_process(rank: int, folder: str) -> None:
    """What each of the processes does; what it finds goes into a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        torch.save(findings(rank), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def findings(rank: int) -> dict:
    model, (inputs, targets) = network("BatchNorm")
    part = slice(0, 12) if rank == 0 else slice(12, 23)
    hessian = Hessian(Objective(model, (inputs[part], targets[part]), loss=F.cross_entropy))
    operator = Distributed(hessian)
    matrices = Distributed(Hessian(quadratic(rotated(LONG, seed=rank))), weight=1 + rank)
    pairs = eigenpairs(matrices, k=2, tol=1e-8)
    different = operator.matvec(torch.randn(operator.size, generator=seeded(rank), dtype=torch.float64))
    errors = []
    for attempt in (
        lambda: Distributed(Failing() if rank else hessian, weight=1) @ torch.ones(hessian.size),
        lambda: Distributed(hessian if rank else Hessian(quadratic(rotated([1.0, 2.0])))),
        lambda: Distributed(hessian, weight=rank),
    ):
        try:
            attempt()
            errors.append("")
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    return {
        "dense": operator.dense(),
        "values": pairs.values,
        "vectors": pairs.vectors,
        "different": different,
        "total": operator.total,
        "errors": errors,
    }


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(in_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("dense", "values", "vectors", "different"):
        assert torch.equal(first[name], second[name]), name  # the same bits in every process
    model, data = network("BatchNorm")
    whole = Hessian(Objective(model, data, loss=F.cross_entropy))
    assert torch.allclose(first["dense"], whole.dense(), atol=1e-14)
    exact = torch.linalg.eigvalsh((rotated(LONG, seed=0) + 2 * rotated(LONG, seed=1)) / 3).flip(0)[:2]
    assert torch.allclose(first["values"], exact, rtol=1e-10)
    assert first["total"] == 23
    own = torch.randn(whole.size, generator=seeded(0), dtype=torch.float64)
    assert torch.allclose(first["different"], whole @ own, atol=1e-14)  # the first one's vectors count
    assert first["errors"][0] == "RuntimeError: the product failed in 1 other process(es); their own messages say why."
    assert second["errors"][0] == "MemoryError: out of memory"
    for errors in (first["errors"], second["errors"]):
        assert "operators of sizes [2, " in errors[1]
        assert "weights must be positive" in errors[2] and "[0.0, 1.0]" in errors[2]


def test_one_process_is_a_group_too(tmp_path: Path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        objective = Objective(built(perceptron), vectors(), loss=F.cross_entropy)
        H = Hessian(objective)
        V = torch.randn(H.size, 3, generator=seeded(0))
        assert torch.allclose(Distributed(H) @ V, H @ V, rtol=1e-6)
        with pytest.raises(TypeError, match="examples behind a Sharded is not known"):
            Distributed(Sharded.of([H]))
    finally:
        dist.destroy_process_group()
