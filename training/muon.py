"""Muon (Jordan et al. 2024): momentum whose singular values are all made alike, for the matrices inside of a network.

``torch.optim.Muon`` goes matrix by matrix, which for hundreds of small ones takes a third as long as the model itself; this
one takes all of a shape at once and shares them out among the workers.
"""

from collections.abc import Callable, Iterable

import torch

from . import workers

# Quintic Newton-Schulz iteration: brings singular values of 0..1 to about 1 in five rounds.
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5
# Size of a square update's entries, as a multiple of the learning rate: about what AdamW's have.
_ENTRIES = 0.2


class Muon(torch.optim.Optimizer):
    """Optimizer of matrices.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Of two axes each.
    lr : float
        Learning rate. An update changes what the matrix returns, in root mean square, by at most a fifth of it times the
        norm of the input: a square one's entries are a fifth of it themselves, a wide one's less.
    momentum : float
        Share of the sum of gradients that a step keeps (Nesterov's).
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float = 1e-3, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update the parameters from their gradients, which all must have."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for alike in shapes.values():
                self._step_alike(alike, group["lr"], group["momentum"])

    def _step_alike(self, parameters: list[torch.nn.Parameter], rate: float, momentum: float) -> None:
        gradient = torch.stack([parameter.grad for parameter in parameters])
        total = self.state[parameters[0]].setdefault("total", torch.zeros_like(gradient))
        total.lerp_(gradient, 1 - momentum)
        direction = gradient.lerp(total, momentum)
        updates = torch.zeros_like(direction)
        share = slice(workers.rank(), None, workers.count())
        updates[share] = orthogonalise(direction[share])
        workers.average(updates)
        size = workers.count() * _ENTRIES * direction.shape[-2] ** 0.5
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-rate * size)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices ``[count, rows, columns]`` with the same singular vectors and singular values of about 1."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
