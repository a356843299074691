"""One transformer block: per-frame self-attention, motion module, cross-attention, MLP."""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from ..attention import AttentionFunction
from ..linear import linear
from ..rows import row_by_row
from .chunks import in_chunks, rows_for
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
    """Return ``x * (1 + scale) + shift``; without gradients in the memory of ``x``."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.addcmul(shift, x, 1 + scale)
    return torch.addcmul(shift, x, 1 + scale, out=x)


def add_gated(x: torch.Tensor, gate: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """Return ``x + gate * branch``; without gradients in the memory of ``branch``."""
    # Compilers refuse a result in memory of another layout, and save the copy by themselves.
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or branch.dtype != x.dtype:
        return torch.addcmul(x, gate, branch)
    return torch.addcmul(x, gate, branch, out=branch)


class EasyAnimateTransformerBlock(nn.Module):
    """Block ``index`` of the transformer; even and odd blocks differ in their motion module alone.

    Without gradients, what its layers return is overwritten by what follows: a hook or patch on one of them that keeps
    a result has to copy it.
    """

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
        chunk_tokens: int | None = None,
    ) -> torch.Tensor:
        """Run the block.

        Parameters
        ----------
        x : torch.Tensor
            Tokens ``[batch, frames, tokens, dim]``; left as they are.
        modulation : torch.Tensor
            Shift, scale and gate of the self-attention, then of the MLP: ``[batch, 6, dim]``.
        context : list of ContextGroup
            Text and CLIP tokens; the groups' rows add up to ``batch``.
        frame_table : torch.Tensor
            Sinusoids of the frame indices ``[frames, dim]``, float32.
        transformer_options : dict, optional
            Handed to the attention function.
        chunk_tokens : int, optional
            About how many tokens to work on at a time where memory is short (:mod:`.memory`); the result is the
            same. All if None. For inference only.

        Returns
        -------
        torch.Tensor
            Same shape as ``x``.
        """
        table = self.scale_shift_table.to(dtype=x.dtype, device=x.device) + modulation
        # Of each frame, [batch * frames, 1, dim], so that frames can be worked on in chunks.
        per_frame = table.repeat_interleave(x.shape[1], dim=0)[:, :, None].unbind(1)
        rows = rows_for(chunk_tokens, x.shape[2])

        frames = x.flatten(0, 1)
        run = partial(self._attend_frames, transformer_options=transformer_options)
        x = in_chunks(run, frames, *per_frame[:3], size=rows).view(x.shape)
        x = self.attn_temporal(x, frame_table, transformer_options, chunk_tokens)
        x = self._cross_attend(x, context, transformer_options, rows)
        frames = x.flatten(0, 1)
        return in_chunks(self._feed_forward, frames, *per_frame[3:], size=rows, into=frames).view(x.shape)

    def _attend_frames(
        self,
        x: torch.Tensor,
        shift: torch.Tensor,
        scale: torch.Tensor,
        gate: torch.Tensor,
        transformer_options: dict[str, Any] | None,
    ) -> torch.Tensor:
        """Self-attention inside each of the frames ``[frames, tokens, dim]``, and the residual."""
        normed = modulate(self.norm1(x), shift, scale)
        return add_gated(x, gate, self.attn1(normed, transformer_options=transformer_options))

    def _feed_forward(
        self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        """MLP on the frames ``[frames, tokens, dim]``, and the residual."""
        return add_gated(x, gate, self.ff(modulate(self.norm2(x), shift, scale)))

    def _cross_attend(
        self,
        x: torch.Tensor,
        context: list[ContextGroup],
        transformer_options: dict[str, Any] | None,
        rows: int | None,
    ) -> torch.Tensor:
        """Attend from all tokens of a clip to its text and CLIP tokens, ``rows`` frames at a time, and add the residual."""
        attended = []
        for part, group in zip(x.split([group.rows for group in context]), context, strict=True):
            layers = (self.attn2.to_k, self.attn2.to_v)
            k, v = (row_by_row(partial(linear, layer), group.tokens) for layer in layers)
            run = partial(self._attend_context, k=k, v=v, transformer_options=transformer_options)
            if torch.is_grad_enabled():
                attended.append(part + run(part))
                continue
            for frames in part.split(rows or x.shape[1], dim=1):
                frames += run(frames)
        return torch.cat(attended) if attended else x

    def _attend_context(
        self,
        x: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        transformer_options: dict[str, Any] | None,
    ) -> torch.Tensor:
        """Cross-attention from some frames of some rows, ``[rows, frames, tokens, dim]``."""
        return self.attn2.attend(x, k, v, transformer_options).view(x.shape)
