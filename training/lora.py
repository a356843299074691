"""Training of a LoRA (Hu et al. 2021): low-rank updates of a frozen transformer, in the release's kohya format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

from . import dit
from .base import Base
from .clips import ClipError, ClipSource
from .latents import Encoder
from .loop import Settings, Trainer, averaged
from .whole import whole_file

# All linear layers of a block, as in the release's files: attention, feed-forward, and the motion module's projections.
LAYERS = (".to_q", ".to_k", ".to_v", ".to_out.0", ".net.0.proj", ".net.2", ".proj_in", ".proj_out")
_PREFIX = "lora_unet__"


class LoraLayer(nn.Module):
    """Update of one linear layer: ``alpha / rank * up @ down``, nothing at first."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.lora_down = nn.Linear(linear.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.lora_up.weight)
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self._scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to what the layer's output ``[..., out]`` changes by."""
        return self._scale * self.lora_up(self.lora_down(x))

    def add_to(self, linear: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """Change the layer's output; a forward hook."""
        return output + self(inputs[0])


class Lora(nn.Module):
    """Updates of a transformer's layers; its state dict holds what a LoRA file does, under the same names.

    Parameters
    ----------
    model : nn.Module
        Transformer; frozen, and changed by the updates from now on.
    rank : int
        Rank of each update, 1 or more.
    alpha : float
        Strength: the updates are scaled by ``alpha / rank``.
    layers : sequence of str
        Endings of the names of the linear layers to change.

    Raises
    ------
    ClipError
        If the rank is below 1, or no layer has such a name.
    """

    def __init__(self, model: nn.Module, rank: int, alpha: float, layers: Sequence[str] = LAYERS) -> None:
        super().__init__()
        if rank < 1:
            raise ClipError(f"The LoRA's rank is {rank}: choose 1 or more.")
        model.requires_grad_(False)
        for path, linear in model.named_modules():
            if isinstance(linear, nn.Linear) and path.endswith(tuple(layers)):
                layer = LoraLayer(linear, rank, alpha)
                self.add_module(_PREFIX + path.replace(".", "_"), layer)
                linear.register_forward_hook(layer.add_to)
        if not len(self._modules):
            raise ClipError(f"The transformer has no linear layers named {', '.join(layers)}: choose others.")


def train(
    folder: Path,
    settings: Settings,
    base: Base,
    source: ClipSource,
    device: torch.device,
    *,
    rank: int = 8,
    alpha: float | None = None,
    layers: Sequence[str] = LAYERS,
    pool_size: int = 40,
) -> None:
    """Train a LoRA to the last step of ``settings``; :func:`export` then writes its files.

    The transformer takes its sizes from the checkpoint's ``config.json``; T5 and CLIP are nano's (see
    :func:`.base.read_base`).

    Parameters
    ----------
    folder : Path
        Where the run's files lie: ``state.pt`` (to go on from), ``loss.png``, ``losses.json``, ``samples_*.png``.
    settings : Settings
        Steps, learning rate (1e-3 suits nano) and seed.
    base : Base
        The checkpoint that the LoRA is for.
    source : ClipSource
        What to teach: clips of 32 frames with captions, such as ``Rings()`` or ``VideoClips(...)``.
    device : torch.device
        Where to train.
    rank : int
        Rank of each update, 1 or more.
    alpha : float, optional
        Strength: updates are scaled by ``alpha / rank``. The rank by default, which is a scale of 1.
    layers : sequence of str
        Endings of the names of the linear layers to change; all of a block's by default, as in the release.
    pool_size : int
        Clips that are drawn from the source at the start, encoded, and trained on.

    Raises
    ------
    ClipError
        If rank or layers are wrong.
    """
    torch.manual_seed(settings.seed)
    model, attention = dit.build(base.config)
    model.load_state_dict(base.transformer)
    lora = Lora(model, rank, rank if alpha is None else alpha, layers).to(device)
    model.to(device)
    encoder = Encoder(base.vae, base.clip, device, source)
    identity = {"rank": rank, "alpha": float(rank if alpha is None else alpha), "layers": " ".join(layers)}
    trainer = Trainer(folder, lora, settings, identity)
    pool = dit.fill_pool(encoder, pool_size, settings.seed)
    dit.fit(trainer, dit.Denoiser(model, attention, base.text, device), encoder, pool)


def export(
    folder: Path, path: Path, config: dict[str, Any], dtype: torch.dtype = torch.float32
) -> tuple[Path, Path]:
    """Write a trained LoRA as two files with the same numbers; needs the package safetensors.

    Parameters
    ----------
    folder : Path
        The run's folder; its averaged weights are written.
    path : Path
        ``NAME.safetensors``: the release's kohya names, for the release and for this pack's LoRA Loader. Beside it,
        ``NAME_comfyui.safetensors`` has names that ComfyUI's core LoRA loaders match (``diffusion_model.``).
    config : dict
        The transformer's ``config.json``.
    dtype : torch.dtype
        What the factors are stored in.

    Returns
    -------
    tuple of Path
        Both files.

    Raises
    ------
    FileNotFoundError
        If nothing was trained in the folder.
    """
    from safetensors.torch import save_file

    from easyanimate_core.checkpoint.lora import to_native_names

    tensors = averaged(folder)
    kohya = {
        name: tensor if name.endswith(".alpha") else tensor.to(dtype) for name, tensor in tensors.items()
    }
    down = next(name for name in kohya if name.endswith(".lora_down.weight"))
    alpha = kohya[down.replace(".lora_down.weight", ".alpha")].item()
    metadata = {"ss_network_dim": str(len(kohya[down])), "ss_network_alpha": f"{alpha:g}"}
    model = EasyAnimateTransformer3D(TransformerConfig.from_dict(config), device="meta")
    path = Path(path)
    other = path.with_name(f"{path.stem}_comfyui{path.suffix}")
    native = to_native_names(kohya, model.state_dict())
    for tensors, file in ((kohya, path), (native, other)):
        with whole_file(file) as partial:
            save_file(tensors, partial, metadata)
    return path, other
