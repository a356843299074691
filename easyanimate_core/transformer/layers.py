"""Attention and MLP layers that the blocks and the motion modules share."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..attention import AttentionFunction


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
    ) -> torch.Tensor:
        """Attend from ``x [batch, ..., dim]`` to ``context [batch, tokens_k, dim]`` (``x`` if None).

        Returns ``[batch, tokens, dim]``, all axes of ``x`` between the first and the last being tokens.
        """
        context = x if context is None else context
        mixed = self.attention(
            # Flattened after the projection: ComfyUI's fp8 product clamps a 3-D input in place.
            self.to_q(x).flatten(1, -2),
            self.to_k(context),
            self.to_v(context),
            self.heads,
            transformer_options=transformer_options or {},
        )
        return self.to_out[0](mixed)


class TanhGELU(nn.Module):
    """Linear layer and tanh GELU: first half of a block's MLP."""

    def __init__(self, dim: int, hidden: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = operations.Linear(dim, hidden, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., dim] -> [..., hidden]``."""
        return F.gelu(self.proj(x), approximate="tanh")


class GEGLU(nn.Module):
    """Linear layer whose second half gates the first through an exact GELU (Shazeer, 2020)."""

    def __init__(self, dim: int, hidden: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = operations.Linear(dim, 2 * hidden, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., dim] -> [..., hidden]``."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., dim] -> [..., dim]``."""
        return self.net[2](self.net[0](x))
