"""Work cut along an axis of independent rows, so that what lives between two layers stays small."""

from collections.abc import Callable

import torch


def in_chunks(
    function: Callable[..., torch.Tensor],
    *tensors: torch.Tensor,
    size: int | None,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``function(*tensors)``, computed ``size`` rows of the first axis at a time.

    Exact where a row of the result depends on the same row of the tensors alone.

    Parameters
    ----------
    function : callable
        Maps rows of the tensors to rows of a result of the shape of the first tensor.
    *tensors : torch.Tensor
        All of the same length.
    size : int, optional
        Rows at a time; all at once if None.
    into : torch.Tensor, optional
        Where the result of chunks goes, such as the first tensor itself; a new tensor if None. Of no effect
        when the work is not cut.
    """
    first = tensors[0]
    if size is None or len(first) <= size:
        return function(*tensors)
    out = torch.empty_like(first, memory_format=torch.contiguous_format) if into is None else into
    for start in range(0, len(first), size):
        out[start : start + size] = function(*(tensor[start : start + size] for tensor in tensors))
    return out


def rows_for(tokens: int | None, tokens_per_row: int) -> int | None:
    """Return how many rows of ``tokens_per_row`` tokens make up about ``tokens`` tokens, at least one."""
    return None if tokens is None else max(tokens // tokens_per_row, 1)
