"""Latents of slices of a single value, which come again in every clip of a size."""

from collections import OrderedDict
from collections.abc import Hashable

import torch
import torch.nn as nn

_MOST = 8


class EvenSlices:
    """Keeps the moments of the last few even slices that were encoded."""

    def __init__(self) -> None:
        self._moments: OrderedDict[Hashable, torch.Tensor] = OrderedDict()

    def key(self, model: nn.Module, pixels: torch.Tensor, place: Hashable) -> Hashable | None:
        """Return what the moments of ``pixels [B, 3, f, H, W]`` depend on, or None where they are not kept.

        That is where the slice has more than one value, or the model's weights may be in training.
        """
        if torch.is_grad_enabled() or model.training or pixels.device.type == "meta":
            return None
        value = pixels[0, 0, 0, 0, 0]
        return (float(value), pixels.shape, pixels.dtype, place) if bool((pixels == value).all()) else None

    def get(self, key: Hashable | None) -> torch.Tensor | None:
        """Return the moments ``[B, 8, t, h, w]`` of a key, if they are there."""
        return None if key is None else self._moments.get(key)

    def keep(self, key: Hashable | None, moments: torch.Tensor) -> None:
        """Keep moments for later clips, in main memory; of no effect without a key."""
        if key is None:
            return
        self._moments[key] = moments.to("cpu", copy=True)
        while len(self._moments) > _MOST:
            self._moments.popitem(last=False)
