"""A tiny LoRA with random weights in the release's format, for the tiny checkpoint's transformer and T5 encoder."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import golden

NAME = "EasyAnimateV3_tiny_lora.safetensors"
RANK, ALPHA = 2, 1.0
# Kinds of layers that the release trains: attention, and the feed-forward's two linear layers.
_TRANSFORMER_LAYERS = (".to_q", ".to_k", ".to_v", ".to_out.0", ".net.0.proj", ".net.2")
_T5_LAYERS = (".q", ".k", ".v", ".o", ".wi_0", ".wi_1", ".wo")
# Large enough to see at strength 1, small enough for videos that are not all saturated.
_SCALE = 0.5


def write(path: Path, checkpoint: Path) -> Path:
    """Write the LoRA for a tiny checkpoint folder and return its path."""
    from easyanimate_core.checkpoint import read_state_dict

    tensors = {
        **modules("lora_unet__", _shapes(read_state_dict(checkpoint / "transformer")), _TRANSFORMER_LAYERS),
        **modules("lora_te_", _shapes(read_state_dict(checkpoint / "text_encoder")), _T5_LAYERS),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)})
    return path


def modules(
    prefix: str, shapes: Mapping[str, Iterable[int]], layers: tuple[str, ...], scale: float = _SCALE
) -> dict[str, torch.Tensor]:
    """Return the factors of the named kinds of layers, under kohya names that start with ``prefix``."""
    tensors = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module == name or not module.endswith(layers):
            continue
        stem = prefix + module.replace(".", "_")
        rows, columns = shape
        up, down = (f"{stem}.lora_up.weight", f"{stem}.lora_down.weight")
        tensors[up] = scale * golden.rule_weight(up, (rows, RANK))
        tensors[down] = golden.rule_weight(down, (RANK, columns))
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    return tensors


def _shapes(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state_dict.items()}
