"""One transformer block: per-frame self-attention, motion module, cross-attention, MLP."""

from typing import Any, NamedTuple

import torch
import torch.nn as nn

from ..attention import AttentionFunction
from .config import TransformerConfig
from .layers import Attention, FeedForward, TanhGELU
from .motion_module import HybridMotionModule


class ContextGroup(NamedTuple):
    """Neighbouring rows of the batch that have the same number of context tokens.

    Padding is dropped instead of masked: the result is the same and flash attention kernels apply.

    Attributes
    ----------
    rows : int
        How many rows of the batch the group covers.
    tokens : torch.Tensor
        Text tokens, then CLIP tokens, shape ``[rows, tokens, dim]``.
    """

    rows: int
    tokens: torch.Tensor


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return ``x * (1 + scale) + shift``."""
    return torch.addcmul(shift, x, 1 + scale)


class EasyAnimateTransformerBlock(nn.Module):
    """Block ``index`` of the transformer; even and odd blocks differ in their motion module alone."""

    def __init__(
        self,
        config: TransformerConfig,
        index: int,
        *,
        attention: AttentionFunction,
        operations: Any,
        **factory: Any,
    ) -> None:
        super().__init__()
        layers = {"operations": operations, **factory}
        attend = {"bias": config.attention_bias, "attention": attention, **layers}
        norm = {"eps": config.norm_eps, "elementwise_affine": False, **factory}
        self.scale_shift_table = nn.Parameter(
            torch.empty(6, config.dim, dtype=torch.float32, device=factory.get("device"))
        )
        self.norm1 = operations.LayerNorm(config.dim, **norm)
        self.attn1 = Attention(config.dim, config.num_attention_heads, **attend)
        self.attn_temporal = HybridMotionModule(
            config.dim, config.motion(index), attention=attention, **layers
        )
        self.attn2 = Attention(config.dim, config.num_attention_heads, **attend)
        self.norm2 = operations.LayerNorm(config.dim, **norm)
        self.ff = FeedForward(config.dim, TanhGELU, **layers)

    def forward(
        self,
        x: torch.Tensor,
        modulation: torch.Tensor,
        context: list[ContextGroup],
        frame_table: torch.Tensor,
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Run the block.

        Parameters
        ----------
        x : torch.Tensor
            Tokens ``[batch, frames, tokens, dim]``.
        modulation : torch.Tensor
            Shift, scale and gate of the self-attention, then of the MLP: ``[batch, 6, dim]``.
        context : list of ContextGroup
            Text and CLIP tokens; the groups' rows add up to ``batch``.
        frame_table : torch.Tensor
            Sinusoids of the frame indices ``[frames, dim]``, float32.
        transformer_options : dict, optional
            Handed to the attention function.

        Returns
        -------
        torch.Tensor
            Same shape as ``x``.
        """
        table = self.scale_shift_table.to(dtype=x.dtype, device=x.device) + modulation
        # Each [batch, 1, 1, dim], to broadcast over frames and tokens.
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = table[:, :, None, None].unbind(1)

        frames = modulate(self.norm1(x), shift_attn, scale_attn).flatten(0, 1)
        x = torch.addcmul(
            x, gate_attn, self.attn1(frames, transformer_options=transformer_options).view(x.shape)
        )
        x = self.attn_temporal(x, frame_table, transformer_options)
        x = x + self._cross_attend(x, context, transformer_options)
        return torch.addcmul(x, gate_mlp, self.ff(modulate(self.norm2(x), shift_mlp, scale_mlp)))

    def _cross_attend(
        self, x: torch.Tensor, context: list[ContextGroup], transformer_options: dict[str, Any] | None
    ) -> torch.Tensor:
        """Attend from all tokens of a clip to its text and CLIP tokens."""
        parts = x.split([group.rows for group in context])
        mixed = [
            self.attn2(part, group.tokens, transformer_options)
            for part, group in zip(parts, context, strict=True)
        ]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).view(x.shape)
