"""What comes over a link, checked before it is used: nodes of other packs may send anything over one."""

from typing import Any

import torch

from .model import EasyAnimateV3Model

# The host draws the noise of all clips up to the one that it takes.
_MOST_CLIPS = 100_000


def kind(value: Any) -> str:
    """Return in words what a value is that is no such thing as it should be."""
    return "nothing" if value is None else f"of Python's type {type(value).__name__}"


def require_model(model: Any) -> None:
    """Raise a ValueError unless ``model`` is a MODEL of EasyAnimateV3."""
    if not isinstance(getattr(model, "model", None), EasyAnimateV3Model):
        raise ValueError(
            "this MODEL is another model's, but this node samples EasyAnimateV3: connect the MODEL of "
            "EasyAnimateV3Loader or EasyAnimateV3TransformerLoader, or take KSampler."
        )


def latent_samples(latent: Any, name: str) -> torch.Tensor:
    """Return the samples of a LATENT, as decimals.

    Parameters
    ----------
    latent : dict
        The host's LATENT.
    name : str
        The input that an error names.

    Raises
    ------
    ValueError
        If it is none.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, torch.Tensor):
        found = f"has samples that are {kind(samples)}" if isinstance(latent, dict) else f"is {kind(latent)}"
        raise ValueError(
            f"{name} {found}, so it is no latent: connect the latent of EasyAnimateV3ImageToVideo or an encoded video."
        )
    if samples.is_complex():
        raise ValueError(f"{name} holds complex numbers, but a latent holds decimals: connect another one.")
    if samples.ndim not in (4, 5) or not samples.numel():
        raise ValueError(
            f"{name} has shape {list(samples.shape)}, but a latent is [batch, 4, frames, height, width] with none of them "
            "0: connect the latent of EasyAnimateV3ImageToVideo or an encoded video."
        )
    return samples if samples.is_floating_point() else samples.float()


def batch_numbers(latent: dict[str, Any], count: int) -> list[int] | None:
    """Return which of the noises of a seed each clip of a LATENT takes, or None where it does not tell.

    Raises
    ------
    ValueError
        Unless there is one small whole number for each of the ``count`` clips.
    """
    numbers = latent.get("batch_index")
    if numbers is None:
        return None
    whole = isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers)
    if not whole or len(numbers) != count or not all(0 <= number < _MOST_CLIPS for number in numbers):
        raise ValueError(
            f"batch_index of latent_image is {str(numbers)[:60]}, but must be a list of one number from 0 to "
            f"{_MOST_CLIPS - 1} for each of its {count} clips: look at the node that the latent comes from."
        )
    return list(numbers)


def noise_mask(latent: dict[str, Any], channels: int) -> torch.Tensor | None:
    """Return where a LATENT is to be sampled, in float32, or None for everywhere.

    Raises
    ------
    ValueError
        If it is no mask that the host can bring to the size of a latent with so many ``channels``.
    """
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    whole = isinstance(mask, torch.Tensor) and 2 <= mask.ndim <= 5 and mask.numel() and not mask.is_complex()
    if not whole or (mask.ndim == 5 and mask.shape[1] > channels):
        found = f"of shape {list(mask.shape)}" if isinstance(mask, torch.Tensor) else kind(mask)
        raise ValueError(
            f"noise_mask of latent_image is {found}, and no mask of a video: make it with SetLatentNoiseMask."
        )
    return mask.float()


def require_conditioning(conditioning: Any, name: str) -> None:
    """Raise a ValueError that names the input unless it is a CONDITIONING with an entry, and with ControlNets that are some."""
    if not isinstance(conditioning, list | tuple) or not conditioning:
        found = "empty" if isinstance(conditioning, list | tuple) else kind(conditioning)
        raise ValueError(f"{name} is {found}, and no conditioning: connect EasyAnimateV3TextEncode.")
    for entry in conditioning:
        whole = isinstance(entry, list | tuple) and len(entry) == 2
        if not whole or not isinstance(entry[0], torch.Tensor) or not isinstance(entry[1], dict):
            raise ValueError(
                f"an entry of {name} is no pair of text states and options, so it comes from a node that makes no "
                "conditioning: connect EasyAnimateV3TextEncode."
            )
        if "control" in entry[1] and not hasattr(entry[1]["control"], "get_control"):
            raise ValueError(
                f"the ControlNet in an entry of {name} is {kind(entry[1]['control'])}: take the node out that put it there."
            )
