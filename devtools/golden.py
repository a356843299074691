"""The weight rule of the golden files and their reader.

Golden files hold inputs and outputs of small models whose weights follow from their names, so none are
stored: ``x = RandomState((crc32(name) + seed) mod 2**32).standard_normal(shape)``, scaled by kind of tensor.
"""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

DEFAULT_SEED = 7

# Residual branches of the pipeline cases are damped so that the decoded video is not all saturated.
_DAMPED_PARTS = (
    "attn1.to_out.0.weight",
    "attn1.to_out.0.bias",
    "attn2.to_out.0.weight",
    "attn2.to_out.0.bias",
    "temporal_transformer.proj_out.weight",
    "temporal_transformer.proj_out.bias",
    "ff.net.2.weight",
    "ff.net.2.bias",
)


def rule_input(name: str, shape: Iterable[int], seed: int = DEFAULT_SEED) -> torch.Tensor:
    """Return the unscaled float32 normal tensor that the rule assigns to ``name``."""
    generator = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    return torch.from_numpy(generator.standard_normal(tuple(shape)).astype(np.float32))


def rule_weight(name: str, shape: Iterable[int], seed: int = DEFAULT_SEED) -> torch.Tensor:
    """Return the weight that the rule assigns to the state-dict entry ``name``."""
    return scaled_weight(name, rule_input(name, shape, seed))


def scaled_weight(name: str, x: torch.Tensor) -> torch.Tensor:
    """Return unit normal numbers scaled to a weight as the kind of tensor that ``name`` says needs it."""
    if name.endswith("scale_shift_table"):
        return x / x.shape[-1] ** 0.5
    if x.ndim >= 2:
        return x / float(np.prod(x.shape[1:])) ** 0.5
    if name.endswith(".weight"):
        return 1 + 0.1 * x
    return 0.1 * x


def rule_state_dict(shapes: Mapping[str, Iterable[int]], seed: int = DEFAULT_SEED) -> dict[str, torch.Tensor]:
    """Return rule weights for every name of ``shapes`` (a model's ``state_dict`` names and shapes)."""
    return {name: rule_weight(name, shape, seed) for name, shape in shapes.items()}


def pipeline_state_dict(
    shapes: Mapping[str, Iterable[int]], seed: int = DEFAULT_SEED
) -> dict[str, torch.Tensor]:
    """Return the transformer weights of the ``pipeline`` cases: the rule's, damped and near an identity."""
    weights = rule_state_dict(shapes, seed)
    for name, weight in weights.items():
        if name.endswith(_DAMPED_PARTS) or name.startswith("long_connect_fc."):
            weight *= 0.05
    patch = weights["pos_embed.proj.weight"]
    patch[16:] *= 0.3
    patch[:16] = 0
    out = torch.zeros_like(weights["proj_out.weight"])
    for c in range(4):
        for p in range(2):
            for q in range(2):
                patch[c * 4 + p * 2 + q, c, p, q] = 1
                out[(p * 2 + q) * 8 + c, c * 4 + p * 2 + q] = 1
    weights["proj_out.weight"] = out
    weights["pos_embed.proj.bias"].zero_()
    weights["proj_out.bias"].zero_()
    weights["scale_shift_table"] *= 0.1
    for part in ("weight", "bias"):
        weights[f"adaln_single.emb.timestep_embedder.linear_2.{part}"] *= 0.1
    return weights


def read_case(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of one golden file."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ``||actual - expected|| / ||expected||`` in float64."""
    if actual.shape != expected.shape:
        raise ValueError(f"shape {tuple(actual.shape)} differs from the golden {tuple(expected.shape)}")
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).norm() / expected.norm())
