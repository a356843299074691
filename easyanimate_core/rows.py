"""Rows of a batch that are computed one by one on CPUs, so that neighbours do not change a clip."""

from collections.abc import Callable

import torch


def row_by_row(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return ``function(x)``, where :func:`alone` says so computed for each row of the first axis by itself.

    A row that is a single vector is computed beside a copy of itself: the kernels for one vector round by where the
    weights lie in memory.
    """
    if not alone(x):
        return function(x)
    rows = [_run(function, row) for row in x.split(1)]
    # A copy of what is one row already could be a whole slice of a video.
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def alone(x: torch.Tensor) -> bool:
    """Tell whether ``x`` is on a CPU, whose kernels round few rows otherwise than many, and is not trained or compiled.

    The many tokens of a clip are rounded alike whatever follows them, so that they need not be taken apart.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _run(function: Callable[[torch.Tensor], torch.Tensor], row: torch.Tensor) -> torch.Tensor:
    if row.numel() > row.shape[-1]:
        return function(row)
    return function(torch.cat((row, row))).chunk(2)[0]
