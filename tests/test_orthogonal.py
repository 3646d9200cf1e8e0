from __future__ import annotations

import pytest
import torch

from landscape.orthogonal import orthogonalize
from tests.problems import seeded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(50,), (50, 3)])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_the_rest_is_orthogonal_and_the_coordinates_give_back_the_vectors(number, shape, dtype):
    basis = torch.linalg.qr(torch.randn(50, number, generator=seeded(0), dtype=dtype)).Q.T
    vectors = torch.randn(shape, generator=seeded(1), dtype=dtype)
    rest, coordinates = orthogonalize(vectors, basis)
    eps = torch.finfo(dtype).eps
    assert coordinates.shape == (number, *shape[1:]) and coordinates.dtype == torch.float64
    assert rest.shape == shape and rest.dtype == dtype
    assert ((basis @ rest).abs() < 20 * eps).all()
    assert torch.allclose(rest + basis.T @ coordinates.to(dtype), vectors, rtol=0, atol=50 * eps)


def test_one_pass_would_not_do_for_a_vector_that_all_but_lies_in_the_basis():
    basis = torch.linalg.qr(torch.randn(50, 7, generator=seeded(0), dtype=torch.float64)).Q.T
    vector = basis.sum(dim=0) + 1e-10 * torch.randn(50, generator=seeded(1), dtype=torch.float64)
    rest, _ = orthogonalize(vector, basis)
    once = vector - basis.T @ (basis @ vector)
    off, off_once = ((basis @ v).norm() / v.norm() for v in (rest, once))
    assert off < 1e-15 < 1e-8 < off_once
