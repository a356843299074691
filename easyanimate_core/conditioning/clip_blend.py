"""One CLIP embedding for a clip whose first and last frames are both given."""

import torch


def blend_embeds(start: torch.Tensor, end: torch.Tensor, mix: float) -> torch.Tensor:
    """Mix the CLIP embeddings of the start and the end image linearly.

    The EasyAnimateV3 release (July 2024) embeds the start image alone, which is ``mix`` 0.

    Parameters
    ----------
    start, end : torch.Tensor
        Projected image embeddings, ``[1, 768]``.
    mix : float
        Share of ``end`` in [0, 1]: 0 is ``start`` and 1 is ``end``, bit for bit.

    Returns
    -------
    torch.Tensor
        ``(1 - mix) * start + mix * end``, shape, dtype and device of ``start``.

    Raises
    ------
    ValueError
        If ``mix`` lies outside [0, 1].
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"The share of the end image's CLIP embedding must be within 0 and 1, not {mix}.")
    return torch.lerp(start, end.to(start), mix)
