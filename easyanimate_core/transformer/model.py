"""The EasyAnimateV3 diffusion transformer, whole."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..attention import AttentionFunction, default_attention
from ..linear import linear
from ..rows import alone, row_by_row
from .block import ContextGroup, EasyAnimateTransformerBlock, modulate
from .chunks import in_chunks, rows_for
from .config import TransformerConfig
from .embeddings import AdaLayerNormSingle, PatchEmbed, Projection, frame_sinusoids
from .memory import FIRST_RECEIVER, SKIPS, MemoryPlan, choose_plan, memory_plans

# Bytes that activations may take on a device, or None for any number.
MemoryBudget = Callable[[torch.device], float | None]


class EasyAnimateTransformer3D(nn.Module):
    """PixArt-alpha blocks with hybrid motion modules, U-ViT skips and CLIP tokens.

    Parameter names are those of the release's checkpoint, less its stored sinusoid tables.

    Parameters
    ----------
    config : TransformerConfig
        Dimensions of the model.
    operations : module or class
        Gives ``Linear``, ``Conv2d``, ``LayerNorm`` and ``GroupNorm``: ``torch.nn`` or one of ComfyUI's sets.
    dtype : torch.dtype, optional
        Dtype of the weights; norms of the motion modules and scale-shift tables are float32 regardless.
    device : torch.device or str, optional
        Where the weights are created; ``"meta"`` creates none.
    attention : callable
        Attention function with the signature of :func:`..attention.default_attention`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        attention: AttentionFunction = default_attention,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        layers = {"operations": operations, **factory}
        dim = config.dim
        self.config = config
        self.dtype = dtype
        self.scale_shift_table = nn.Parameter(torch.empty(2, dim, dtype=torch.float32, device=device))
        self.pos_embed = PatchEmbed(config.in_channels, dim, config.patch_size, config.base_grid, **layers)
        self.transformer_blocks = nn.ModuleList(
            EasyAnimateTransformerBlock(config, index, attention=attention, **layers)
            for index in range(config.num_layers)
        )
        if config.enable_uvit:
            self.long_connect_fc = nn.ModuleList(operations.Linear(dim, dim, **factory) for _ in range(SKIPS))
        self.norm_out = operations.LayerNorm(dim, eps=1e-6, elementwise_affine=False, **factory)
        self.proj_out = operations.Linear(dim, config.patch_size**2 * config.out_channels, **factory)
        self.adaln_single = AdaLayerNormSingle(dim, **layers)
        self.caption_projection = Projection(config.caption_channels, dim, **layers)
        if config.clip_tokens:
            self.clip_projection = Projection(config.clip_channels, config.clip_tokens * dim, **layers)

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        context_lengths: Sequence[int] | None = None,
        clip_embeds: torch.Tensor | None = None,
        clip_active: Sequence[bool] | None = None,
        transformer_options: dict[str, Any] | None = None,
        memory_budget: MemoryBudget | None = None,
    ) -> torch.Tensor:
        """Predict the noise of a batch of clips.

        Parameters
        ----------
        x : torch.Tensor
            Noisy latents, and behind them on the channel axis the mask latents and masked-video latents of a
            12-channel model: ``[batch, in_channels, frames, height, width]``, in the model's scaling.
        timestep : torch.Tensor
            Shape ``[batch]``, in 0..999, fractions allowed.
        context : torch.Tensor
            T5 states ``[batch, tokens, caption_channels]``.
        context_lengths : sequence of int, optional
            Valid text tokens of each row; the rest is padding. All are valid if None.
        clip_embeds : torch.Tensor, optional
            CLIP image embeddings ``[batch, clip_channels]``.
        clip_active : sequence of bool, optional
            Which rows use their CLIP embedding. All do if None and ``clip_embeds`` is given.
        transformer_options : dict, optional
            ComfyUI's options; ``patches_replace["dit"][("double_block", i)]`` may replace block ``i``. Such a patch
            gets ``img`` (tokens), ``vec`` (modulation) and ``txt`` (a list of ``ContextGroup``), and returns ``img``.
        memory_budget : callable, optional
            Takes the device and returns the bytes that activations may take there now, or None for any number. Where
            they would take more, the work is cut in chunks, and if need be the U-ViT skips wait in main memory:
            slower, with the same result. Not asked where gradients are on.

        Returns
        -------
        torch.Tensor
            ``[batch, out_channels, frames, height, width]``: predicted noise in the first half of the channels,
            learned sigma in the second.
        """
        options = transformer_options or {}
        height, width = x.shape[-2:]
        tokens, grid = self._patchify(x)
        modulation, embedding = self.adaln_single(timestep, x.dtype)
        groups = self._context_groups(context, context_lengths, clip_embeds, clip_active)
        plan = self._memory_plan(tokens, memory_budget)
        tokens = self._run_blocks(tokens, modulation, groups, options, plan)
        table = self.scale_shift_table.to(dtype=x.dtype, device=x.device) + embedding[:, None]
        shift, scale = table[:, :, None, None].unbind(1)
        tokens = self.proj_out(modulate(self.norm_out(tokens), shift, scale))
        return self._unpatchify(tokens, grid)[..., :height, :width]

    def _patchify(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """``[batch, channels, frames, height, width]`` to tokens ``[batch, frames, tokens, dim]`` and the grid."""
        batch, _, frames, height, width = x.shape
        patch = self.config.patch_size
        if height % patch or width % patch:
            x = F.pad(x, (0, -width % patch, 0, -height % patch, 0, 0), mode="replicate")
        grid = (x.shape[3] // patch, x.shape[4] // patch)
        tokens = row_by_row(lambda clips: self.pos_embed(clips.transpose(1, 2).flatten(0, 1)), x)
        return tokens.unflatten(0, (batch, frames)), grid

    def _unpatchify(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """``[batch, frames, tokens, (p, q, channel)]`` to ``[batch, channels, frames, height, width]``."""
        patch = self.config.patch_size
        x = tokens.unflatten(3, (patch, patch, -1)).unflatten(2, grid)
        # batch, frames, rows, columns, p, q, channel -> batch, channel, frames, rows, p, columns, q
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _context_groups(
        self,
        context: torch.Tensor,
        context_lengths: Sequence[int] | None,
        clip_embeds: torch.Tensor | None,
        clip_active: Sequence[bool] | None,
    ) -> list[ContextGroup]:
        """Project text and CLIP and join them per row, CLIP tokens last."""
        batch = context.shape[0]
        lengths = list(context_lengths) if context_lengths is not None else [context.shape[1]] * batch
        if clip_embeds is None or not self.config.clip_tokens:
            active = [False] * batch
        else:
            active = list(clip_active) if clip_active is not None else [True] * batch
        texts = self._project_texts(context, lengths)
        if any(active):
            clip = row_by_row(self.clip_projection, clip_embeds.to(context.dtype)).unflatten(
                1, (self.config.clip_tokens, -1)
            )
        groups, start = [], 0
        for (_, with_clip), rows in groupby(zip(lengths, active, strict=True)):
            count = len(list(rows))
            tokens = torch.cat(texts[start : start + count])
            if with_clip:
                tokens = torch.cat((tokens, clip[start : start + count]), dim=1)
            groups.append(ContextGroup(count, tokens))
            start += count
        return groups

    def _project_texts(self, context: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """Return the text tokens ``[1, length, dim]`` of each row."""
        if alone(context):
            # Without the padding too, whose length depends on the other rows.
            texts = [text[:, :length] for text, length in zip(context.split(1), lengths, strict=True)]
            return [row_by_row(self.caption_projection, text) for text in texts]
        projected = self.caption_projection(context).split(1)
        return [text[:, :length] for text, length in zip(projected, lengths, strict=True)]

    # Called, not compiled: a number of bytes would be a constant of the graph, compiled anew whenever it changes.
    @torch.compiler.disable
    def _memory_plan(self, tokens: torch.Tensor, budget: MemoryBudget | None) -> MemoryPlan:
        plans = memory_plans(self.config, tokens.shape[:3].numel(), tokens.element_size())
        # All but the first work in place, on tensors that the backward pass would read.
        unlimited = budget is None or torch.is_grad_enabled()
        return choose_plan(plans, None if unlimited else budget(tokens.device))

    def _run_blocks(
        self,
        x: torch.Tensor,
        modulation: torch.Tensor,
        groups: list[ContextGroup],
        options: dict[str, Any],
        plan: MemoryPlan,
    ) -> torch.Tensor:
        """Run all blocks; the first outputs are added, last in first out, before the last blocks."""
        replacements = options.get("patches_replace", {}).get("dit", {})
        frame_table = frame_sinusoids(x.shape[1], x.shape[3], x.device)
        pushed: list[torch.Tensor] = []
        for index, block in enumerate(self.transformer_blocks):
            if pushed and index >= FIRST_RECEIVER:
                x = self._connect(index - FIRST_RECEIVER, x, pushed.pop(), plan)
            replacement = replacements.get(("double_block", index))
            if replacement is None:
                x = block(x, modulation, groups, frame_table, options, plan.chunk_tokens)
            else:
                run = partial(
                    block,
                    frame_table=frame_table,
                    transformer_options=options,
                    chunk_tokens=plan.chunk_tokens,
                )
                x = _run_replaced(replacement, run, x, modulation, groups, options)
            if self.config.enable_uvit and index < SKIPS:
                pushed.append(_park(x) if plan.park_skips else x)
        return x

    def _connect(self, index: int, x: torch.Tensor, skip: torch.Tensor, plan: MemoryPlan) -> torch.Tensor:
        """Add a U-ViT skip to the tokens ``[batch, frames, tokens, dim]``."""

        def add(part: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
            # Four axes, since ComfyUI's fp8 product clamps an input of two or three in place.
            skip = skip.to(part.device, non_blocking=part.device.type == "cuda")
            out = linear(self.long_connect_fc[index], skip[None])[0]
            # Autocast returns another dtype than the tokens'.
            return part + out if torch.is_grad_enabled() or out.dtype != part.dtype else out.add_(part)

        # Not into `x`: where a patch leaves blocks out, it may be one of the skips that are still to come.
        frames, rows = x.flatten(0, 1), rows_for(plan.chunk_tokens, x.shape[2])
        return in_chunks(add, frames, skip.flatten(0, 1), size=rows).view(x.shape)


def _park(x: torch.Tensor) -> torch.Tensor:
    """Copy tokens to main memory; on a GPU into pinned memory, so that it need not wait."""
    pinned = x.device.type == "cuda"
    try:
        parked = torch.empty(x.shape, dtype=x.dtype, pin_memory=pinned)
    except RuntimeError:
        # Systems limit how much of their memory may be pinned.
        pinned, parked = False, torch.empty(x.shape, dtype=x.dtype)
    return parked.copy_(x, non_blocking=pinned)


def _run_replaced(
    replacement: Any,
    run: Callable[..., torch.Tensor],
    x: torch.Tensor,
    modulation: torch.Tensor,
    groups: list[ContextGroup],
    options: dict[str, Any],
) -> torch.Tensor:
    """Let a ComfyUI ``dit`` patch run instead of a block, or around it."""

    def original(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"img": run(arguments["img"], arguments["vec"], arguments["txt"])}

    arguments = {"img": x, "vec": modulation, "txt": groups, "transformer_options": options}
    return replacement(arguments, {"original_block": original})["img"]
