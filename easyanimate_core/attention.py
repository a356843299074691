"""The attention function that layers use when the caller injects none."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

AttentionFunction = Callable[..., torch.Tensor]


def default_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None = None,
    transformer_options: dict[str, Any] | None = None,
) -> torch.Tensor:
    """Multi-head scaled dot-product attention, with the calling convention of ComfyUI's ``optimized_attention``.

    Parameters
    ----------
    q, k, v : torch.Tensor
        Shapes ``[batch, tokens_q, heads * head_dim]`` and ``[batch, tokens_k, heads * head_dim]``.
    heads : int
        Number of heads that the last axis is cut into.
    mask : torch.Tensor, optional
        Additive mask that broadcasts to ``[batch, heads, tokens_q, tokens_k]``.
    transformer_options : dict, optional
        Ignored here; ComfyUI's attention reads patches from it.

    Returns
    -------
    torch.Tensor
        Shape ``[batch, tokens_q, heads * head_dim]``.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
