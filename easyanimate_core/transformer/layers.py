"""Attention and MLP layers that the blocks and the motion modules share."""

from typing import Any

import torch
import torch.nn as nn

from ..attention import AttentionFunction
from ..linear import gated_linear, linear


class Attention(nn.Module):
    """Query, key, value and output projections around an injected attention function."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        bias: bool,
        attention: AttentionFunction,
        operations: Any,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.to_q = operations.Linear(dim, dim, bias=bias, **factory)
        self.to_k = operations.Linear(dim, dim, bias=bias, **factory)
        self.to_v = operations.Linear(dim, dim, bias=bias, **factory)
        # Index 0 of a list, since the checkpoint's name is `to_out.0` (index 1 was dropout).
        self.to_out = nn.ModuleList([operations.Linear(dim, dim, **factory)])

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        plus: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from ``x [batch, ..., dim]`` to ``context [batch, tokens_k, dim]`` (``x`` if None).

        Returns ``[batch, tokens, dim]``, all axes of ``x`` between the first and the last being tokens; with
        ``plus``, of that shape, added.
        """
        context = x if context is None else context
        return self.attend(
            x, linear(self.to_k, context), linear(self.to_v, context), transformer_options, plus
        )

    def attend(
        self,
        x: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        transformer_options: dict[str, Any] | None = None,
        plus: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As ``forward``, from ``x [batch, ..., dim]`` to projected keys and values ``[batch, tokens_k, dim]``."""
        # Flattened after the projection: ComfyUI's fp8 product clamps a 3-D input in place.
        q = linear(self.to_q, x).flatten(1, -2)
        mixed = self.attention(q, k, v, self.heads, transformer_options=transformer_options or {})
        return linear(self.to_out[0], mixed, plus=plus)


class TanhGELU(nn.Module):
    """Linear layer and tanh GELU: first half of a block's MLP."""

    def __init__(self, dim: int, hidden: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = operations.Linear(dim, hidden, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., dim] -> [..., hidden]``."""
        return linear(self.proj, x, gelu="tanh")


class GEGLU(nn.Module):
    """Linear layer whose second half gates the first through an exact GELU (Shazeer, 2020)."""

    def __init__(self, dim: int, hidden: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = operations.Linear(dim, 2 * hidden, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., dim] -> [..., hidden]``."""
        return gated_linear(self.proj, x)


class FeedForward(nn.Module):
    """MLP of four times the width, around either activation."""

    def __init__(
        self, dim: int, activation: type[TanhGELU] | type[GEGLU], *, operations: Any, **factory: Any
    ) -> None:
        super().__init__()
        # Index 1 was dropout in training; it keeps the checkpoint's name `net.2` in place.
        self.net = nn.ModuleList(
            [
                activation(dim, 4 * dim, operations=operations, **factory),
                nn.Identity(),
                operations.Linear(4 * dim, dim, **factory),
            ]
        )

    def forward(self, x: torch.Tensor, plus: torch.Tensor | None = None) -> torch.Tensor:
        """``[..., dim] -> [..., dim]``; with ``plus``, of that shape, added."""
        # At least four axes: ComfyUI's fp8 product takes two or three, and cuts what is over 448.
        axes = (1,) * (4 - x.ndim)
        plus = None if plus is None else plus.view(*axes, *x.shape)
        return linear(self.net[2], self.net[0](x.view(*axes, *x.shape)), plus=plus).view(x.shape)
