"""Mutants of the transformer, and of the attention and linear layers that it shares."""

from .mutant import mutants_of

PARITY = "tests/test_parity.py::test_golden_case"
DIT = f"{PARITY}[dit/video_cfg]"
EPS = "tests/test_checkpoint.py::test_norms_have_the_releases_eps"

TRANSFORMER = [
    *mutants_of(
        "transformer/embeddings.py",
        DIT,
        (
            "grid-halves",
            "position table of the patches: row before column",
            "torch.cat((columns, rows), dim=-1)",
            "torch.cat((rows, columns), dim=-1)",
        ),
        (
            "grid-sin-cos",
            "position table of the patches: cosine before sine",
            "torch.cat((angles.sin(), angles.cos()), dim=1)",
            "torch.cat((angles.cos(), angles.sin()), dim=1)",
        ),
        (
            "grid-not-stretched",
            "positions of the patches count 0, 1, 2 instead of being stretched to the base grid",
            " * base_grid / size)",
            ")",
        ),
        (
            "grid-frequencies",
            "frequencies of the position table fall half as fast",
            "(dim / 4))",
            "(dim / 2))",
        ),
        (
            "frame-table-in-halves",
            "frame sinusoids: sines, then cosines, instead of interleaved",
            "torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)",
            "torch.cat((angles.sin(), angles.cos()), dim=-1)",
        ),
        (
            "timestep-sin-first",
            "timestep sinusoids: sine before cosine",
            "torch.cat((angles.cos(), angles.sin()), dim=-1)",
            "torch.cat((angles.sin(), angles.cos()), dim=-1)",
        ),
        (
            "timestep-frequency-shift",
            "timestep frequencies shifted by one",
            "(-math.log(MAX_PERIOD) / half)",
            "(-math.log(MAX_PERIOD) / (half - 1))",
        ),
        ("period", "all sinusoids of base 1000", "MAX_PERIOD = 10000.0", "MAX_PERIOD = 1000.0"),
        (
            "timestep-without-silu",
            "no SiLU before the projection of the timestep",
            "self.linear(F.silu(rows))",
            "self.linear(rows)",
        ),
        (
            "projection-exact-gelu",
            "text and CLIP projections with the exact GELU",
            'approximate="tanh"',
            'approximate="none"',
        ),
    ),
    *mutants_of(
        "transformer/config.py",
        DIT,
        (
            "even-and-odd-blocks",
            "global attention in even blocks instead of odd ones",
            "self.motion_odd if block % 2 else self.motion_even",
            "self.motion_even if block % 2 else self.motion_odd",
        ),
        (
            "base-grid-unscaled",
            "base grid grows with the sample size",
            " / max(self.sample_size // 64, 1)",
            "",
            "tests/test_checkpoint.py::test_base_grid",
        ),
        (
            "head-size",
            "heads of 64 channels in files without a configuration",
            "RELEASE_HEAD_DIM = 72",
            "RELEASE_HEAD_DIM = 64",
            "tests/host/test_full_size.py::test_configuration_is_found_without_config_json",
        ),
        (
            "global-attention-first",
            "global before temporal attention in files without a configuration",
            "motion.num_transformer_block, (TEMPORAL, GLOBAL))",
            "motion.num_transformer_block, (GLOBAL, TEMPORAL))",
            "tests/host/test_full_size.py::test_configuration_is_found_without_config_json",
        ),
    ),
    *mutants_of(
        "transformer/block.py",
        DIT,
        (
            "scale-sign",
            "x (1 - scale) + shift",
            "torch.addcmul(shift, x, 1 + scale, out=x)",
            "torch.addcmul(shift, x, 1 - scale, out=x)",
        ),
        (
            "shift-sign",
            "x (1 + scale) - shift",
            "torch.addcmul(shift, x, 1 + scale, out=x)",
            "torch.addcmul(-shift, x, 1 + scale, out=x)",
        ),
        (
            "scale-sign-with-gradients",
            "x (1 - scale) + shift in training alone",
            "torch.addcmul(shift, x, 1 + scale)",
            "torch.addcmul(shift, x, 1 - scale)",
            "tests/test_memory_plans.py::test_gradients_do_not_change_the_result",
        ),
        (
            "gate-missing",
            "branches added without their gate",
            "torch.addcmul(x, gate, branch, out=branch)",
            "torch.add(x, branch, out=branch)",
        ),
        (
            "gate-missing-with-gradients",
            "branches added without their gate in training alone",
            "return torch.addcmul(x, gate, branch)\n",
            "return x + branch\n",
            "tests/test_memory_plans.py::test_gradients_do_not_change_the_result",
        ),
        (
            "modulation-of-the-mlp",
            "self-attention takes the MLP's shift, scale and gate",
            "in_chunks(run, frames, *per_frame[:3],",
            "in_chunks(run, frames, *per_frame[3:],",
        ),
        (
            "normed-cross-attention",
            "cross-attention reads the normed stream",
            "frames += run(frames)",
            "frames += run(self.norm2(frames))",
        ),
        (
            "cross-attention-without-residual",
            "cross-attention replaces the stream",
            "frames += run(frames)",
            "frames.copy_(run(frames))",
        ),
        (
            "motion-after-cross-attention",
            "motion module behind the cross-attention",
            "        x = self.attn_temporal(x, frame_table, transformer_options, chunk_tokens)\n"
            "        x = self._cross_attend(x, context, transformer_options, rows)\n",
            "        x = self._cross_attend(x, context, transformer_options, rows)\n"
            "        x = self.attn_temporal(x, frame_table, transformer_options, chunk_tokens)\n",
        ),
    ),
    *mutants_of(
        "transformer/layers.py",
        DIT,
        (
            "keys-and-values",
            "keys and values change places",
            "linear(self.to_k, context), linear(self.to_v, context)",
            "linear(self.to_v, context), linear(self.to_k, context)",
        ),
        ("mlp-exact-gelu", "MLP of a block with the exact GELU", 'gelu="tanh")', 'gelu="none")'),
        (
            "attention-residual",
            "attention of the motion module without its residual",
            "linear(self.to_out[0], mixed, plus=plus)",
            "linear(self.to_out[0], mixed)",
        ),
    ),
    *mutants_of(
        "transformer/motion_module.py",
        DIT,
        (
            "no-global-attention",
            "temporal attention in place of the global one",
            "self._attend_clip if kind == GLOBAL else self._attend_tracks",
            "self._attend_tracks",
        ),
        (
            "no-frame-index",
            "tokens of the motion module do not know their frame",
            "return frame_table if self.config",
            "return None if self.config",
        ),
        (
            "motion-residual",
            "motion module without its residual",
            "return x + moved if torch.is_grad_enabled() else x.add_(moved)",
            "return moved",
        ),
        ("motion-groups", "GroupNorm of 16 groups in the motion module", "GROUPS = 32", "GROUPS = 16"),
        (
            "motion-group-norm-eps",
            "GroupNorm of the motion module with eps 1e-5",
            "GROUPS, dim, eps=1e-6",
            "GROUPS, dim, eps=1e-5",
            EPS,
        ),
        (
            "motion-layer-norm-eps",
            "LayerNorms of the motion attentions with eps 1e-6",
            "nn.ModuleList(operations.LayerNorm(dim, eps=1e-5",
            "nn.ModuleList(operations.LayerNorm(dim, eps=1e-6",
            EPS,
        ),
        (
            "motion-mlp-norm-eps",
            "LayerNorm of the motion MLP with eps 1e-6",
            "self.ff_norm = operations.LayerNorm(dim, eps=1e-5",
            "self.ff_norm = operations.LayerNorm(dim, eps=1e-6",
            EPS,
        ),
    ),
    *mutants_of(
        "transformer/norms.py",
        DIT,
        (
            "group-norm-of-the-clip",
            "GroupNorm of the motion module over the clip instead of each frame",
            "norm(x.flatten(0, 1).transpose(1, 2).float()).to(x.dtype)\n"
            "        return normed.view(batch, frames, dim, tokens).permute(0, 3, 1, 2).contiguous()",
            "norm(x.flatten(1, 2).transpose(1, 2).float()).to(x.dtype)\n"
            "        return normed.view(batch, dim, frames, tokens).permute(0, 3, 2, 1).contiguous()",
        ),
        (
            "no-frame-index-in-half-precision",
            "tokens of the motion module do not know their frame in half precision",
            "bias if plus is None else bias + plus, normed",
            "bias, normed",
            "tests/test_linear.py::test_norm_with_float32_weights_does_what_follows",
        ),
    ),
    *mutants_of(
        "transformer/model.py",
        DIT,
        ("skips-first-in-first-out", "U-ViT skips in the order of a queue", "pushed.pop()", "pushed.pop(0)"),
        (
            "skip-replaces",
            "a U-ViT skip replaces the stream instead of being added",
            "else out.add_(part)",
            "else out",
        ),
        (
            "padded-text",
            "padding of the text is read",
            "[text[:, :length] for text, length in zip(context.split(1), lengths, strict=True)]",
            "context.split(1)",
        ),
        (
            "padded-text-with-gradients",
            "padding of the text is read in training alone",
            "[text[:, :length] for text, length in zip(projected, lengths, strict=True)]",
            "projected",
            "tests/test_memory_plans.py::test_gradients_do_not_change_the_result",
        ),
        (
            "clip-of-another-row",
            "CLIP tokens of the batch's first rows for all of them",
            "clip[start : start + count]",
            "clip[:count]",
        ),
        (
            "clip-tokens-transposed",
            "CLIP projection cut across its tokens",
            "1, (self.config.clip_tokens, -1)\n            )",
            "1, (-1, self.config.clip_tokens)\n            ).transpose(1, 2)",
        ),
        (
            "final-shift-and-scale",
            "shift and scale of the last norm change places",
            "shift, scale = table[",
            "scale, shift = table[",
        ),
        (
            "patch-axes",
            "rows and columns inside a patch change places in the output",
            "x.permute(0, 6, 1, 2, 4, 3, 5)",
            "x.permute(0, 6, 1, 2, 5, 3, 4)",
        ),
        (
            "clip-always",
            "CLIP tokens on the negative side too",
            "list(clip_active) if clip_active is not None else [True] * batch",
            "[True] * batch",
        ),
    ),
    *mutants_of(
        "transformer/memory.py",
        DIT,
        (
            "first-receiver",
            "U-ViT skips arrive one block early",
            "FIRST_RECEIVER = 15",
            "FIRST_RECEIVER = 14",
        ),
    ),
    *mutants_of(
        "transformer/chunks.py",
        "tests/test_memory_plans.py::test_every_plan_gives_the_same_result[parts of a clip-chunks-dtype0-3e-06]",
        (
            "chunks-of-the-first-rows",
            "every chunk reads the first rows",
            "tensor[start : start + size] for tensor in tensors",
            "tensor[:size][: len(first) - start] for tensor in tensors",
        ),
    ),
    *mutants_of(
        "rows.py",
        "tests/robustness/test_determinism.py::test_neighbours_in_a_batch_do_not_change_a_clip[Euler-1]",
        (
            "rows-together",
            "vectors of all clips of a batch go through a layer together",
            "if not alone(x):",
            "if True:",
        ),
    ),
    *mutants_of(
        "attention.py",
        DIT,
        (
            "attention-scale",
            "scores of the attention are not divided by the root of the head size",
            "q, k, v, attn_mask=mask)",
            "q, k, v, attn_mask=mask, scale=1.0)",
        ),
        (
            "heads-interleaved",
            "heads take every n-th channel",
            "x.unflatten(-1, (heads, -1)).transpose(1, 2)",
            "x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)",
        ),
    ),
    *mutants_of(
        "linear.py",
        "tests/test_linear.py::test_gated_linear_is_geglu",
        (
            "geglu-halves",
            "GEGLU: the first half gates the second",
            "value, gate = layer(x).chunk(2, dim=-1)",
            "gate, value = layer(x).chunk(2, dim=-1)",
        ),
        (
            "geglu-halves-fused",
            "GEGLU of the fused kernels: the first half gates the second",
            "(value_weight, gate_weight), (value_bias, gate_bias) = halves",
            "(gate_weight, value_weight), (gate_bias, value_bias) = halves",
        ),
        (
            "geglu-tanh",
            "GEGLU with the tanh GELU",
            "value.mul_(torch.ops.aten.gelu_(gate))",
            'value.mul_(torch.ops.aten.gelu_(gate, approximate="tanh"))',
        ),
    ),
]
