"""Objectives with known answers, small enough to differentiate by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.objective import Objective
from landscape.operators import LinearOperator


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(size: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix (size, size)."""
    return torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64)).Q


def rotated(eigenvalues: Tensor | list[float], seed: int = 0) -> Tensor:
    """A full symmetric matrix with these eigenvalues."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    Q = rotation(len(values), seed)
    matrix = (Q * values) @ Q.T
    return (matrix + matrix.T) / 2


class Matrix(LinearOperator):
    """A dense matrix that counts its products."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self.size, self.device, self.dtype = len(matrix), matrix.device, matrix.dtype
        self.num_matvecs = 0

    def matmat(self, V: Tensor) -> Tensor:
        self.num_matvecs += V.shape[1]
        return self.matrix @ V


class Quadratic(nn.Module):
    """loss = c + b.w + w.A w / 2, whatever the data; so the Hessian is A everywhere."""

    def __init__(self, matrix: Tensor, slope: Tensor | None = None, constant: float = 0.0, start: Tensor | None = None):
        super().__init__()
        size = len(matrix)
        self.register_buffer("matrix", matrix)
        self.register_buffer("slope", torch.zeros(size, dtype=matrix.dtype) if slope is None else slope)
        self.constant = constant
        first = torch.randn(size, generator=seeded(7), dtype=matrix.dtype) if start is None else start
        self.w = nn.Parameter(first)

    def forward(self, inputs: Tensor) -> Tensor:
        value = self.constant + self.slope @ self.w + self.w @ self.matrix @ self.w / 2
        return value + 0 * inputs.sum()


def only_output(output: Tensor, _target: Tensor) -> Tensor:
    return output.mean()


def quadratic(matrix: Tensor, **options) -> Objective:
    """The objective whose Hessian is `matrix`, in float64 unless the matrix is not."""
    model = Quadratic(matrix, options.pop("slope", None), options.pop("constant", 0.0), options.pop("start", None))
    data = (torch.zeros(3, 1, dtype=matrix.dtype), torch.zeros(3, dtype=matrix.dtype))
    return Objective(model, data, loss=only_output, **options)


class InterruptedJournal:
    """Keeps pieces in memory; dies after so many."""

    def __init__(self, pieces=(), most: int | None = None):
        self.pieces, self.most = dict(pieces), most

    def records(self):
        return self.pieces

    def append(self, key, arrays, sync=True):
        if self.most is not None and len(self.pieces) >= self.most:
            raise KeyboardInterrupt
        self.pieces[key] = arrays


def images(number: int = 23, size: int = 6, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    inputs = torch.randn(number, 1, size, size, generator=generator)
    return inputs, torch.randint(0, classes, (number,), generator=generator)


def vectors(number: int = 23, width: int = 5, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    inputs = torch.randn(number, width, generator=generator)
    return inputs, torch.randint(0, classes, (number,), generator=generator)


def built(factory, seed: int = 0, dtype: torch.dtype = torch.float32):
    """Make a module under a seed, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory().to(dtype)


class LinearRegression(nn.Module):
    """y = X w; with MSE the Hessian is 2 X'X / N."""

    def __init__(self, width: int = 5):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, width))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.w


def softmax_regression() -> nn.Module:
    return nn.Linear(5, 3)


def two_layer_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def relu_perceptron() -> nn.Module:
    """Two ReLU layers without bias, on which Dinh's rescaling is exact."""
    return nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))


class TinyCNN(nn.Module):
    """Convolution, BatchNorm, smooth activation, linear; running statistics that are not the default ones."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, classes)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.3, 0.3)
            self.norm.running_var.uniform_(0.5, 1.5)
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-0.3, 0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.norm(self.conv(inputs))).mean(dim=(2, 3)))


class TiedFrozenUnused(nn.Module):
    """One matrix used twice, one frozen layer, one parameter that the loss does not see."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 5, bias=False)
        self.decoder = nn.Linear(5, 5, bias=False)
        self.decoder.weight = self.encoder.weight
        self.frozen = nn.Linear(5, 5)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(5, 3)
        self.unused = nn.Parameter(torch.ones(4))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.frozen(torch.tanh(self.encoder(inputs))))
        return self.head(torch.tanh(self.decoder(hidden)))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.up = nn.ConvTranspose2d(2, 3, 2, bias=False)
        self.head = nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.up(torch.tanh(self.conv(inputs)))).mean(dim=(2, 3)))


class Attention(nn.Module):
    """One head of attention over the pixels of a row, by torch's fused function."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 12)
        self.head = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        q, k, v = self.qkv(inputs).chunk(3, dim=-1)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean(dim=(1, 2)))


# Name -> (factory, data): every kind of network on which derivatives are compared.
NETWORKS = {
    "softmax regression": (softmax_regression, vectors),
    "two linear layers": (two_layer_linear, vectors),
    "perceptron": (perceptron, vectors),
    "BatchNorm": (TinyCNN, images),
    "tied, frozen, unused": (TiedFrozenUnused, vectors),
    "transposed convolution": (Transposed, images),
    "attention": (Attention, images),
}


def network(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    factory, data = NETWORKS[name]
    inputs, targets = data()
    return built(factory, dtype=dtype), (inputs.to(dtype), targets)


class TanhToy(nn.Module):
    """loss = (0.5 - tanh(w1 tanh(0.5 w2)))^2: a saddle at zero with loss 0.25, two valleys of loss zero.

    At zero the Hessian is [[0, -c], [-c, 0]] with c = 0.5, as d/dw1 d/dw2 of -2 * 0.5 * (w1 * 0.5 w2).
    """

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.w[0] * torch.tanh(self.w[1] * inputs))


def tanh_toy() -> Objective:
    data = (torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64))
    return Objective(TanhToy(), data, loss=F.mse_loss)


class Autoencoder(nn.Module):
    """x -> W2 W1 x; with whitened inputs of covariance diag(s) every critical point is known in closed form."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(hidden, width, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(width, hidden, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.first.T @ self.second.T


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).sum(dim=1).mean() / 2


def autoencoder(variances: list[float], hidden: int, chosen: tuple[int, ...]) -> Objective:
    """A linear autoencoder at the critical point that holds the chosen principal components.

    The loss there is half the sum of the variances left out (Baldi and Hornik 1989).
    """
    s, size = torch.tensor(variances, dtype=torch.float64), len(variances)
    inputs = torch.diag((size * s).sqrt())  # mean of x x^T = diag(s)
    model = Autoencoder(size, hidden)
    with torch.no_grad():
        for row, component in enumerate(chosen):
            model.first[row, component] = 1.0
            model.second[component, row] = 1.0
    return Objective(model, (inputs, inputs), loss=half_squares)


class Inflection(nn.Module):
    """loss = x^3 / 3 + slope x + y^2 / 2: no critical point; the least gradient norm, at zero, is gradient-flat."""

    def __init__(self, slope: float = 0.1, start: tuple[float, float] = (0.7, 0.4)):
        super().__init__()
        self.slope = slope
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        x, y = self.w
        return x**3 / 3 + self.slope * x + y**2 / 2 + 0 * inputs.sum()


def inflection(slope: float = 0.1, start: tuple[float, float] = (0.7, 0.4)) -> Objective:
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    return Objective(Inflection(slope, start), data, loss=only_output)
