"""The control of brightness, contrast and colour, which drift when a video is continued over and over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .overlap import check_sizes

DRIFT_CONTROLS = ("off", "mean_std", "histogram")
DRIFT_SCOPES = ("overlap", "segment")
_BINS = 4096
# A quarter of an 8-bit step: below it a channel has no contrast to measure, only noise that would be amplified.
_FLAT = 1e-3

_Change = Callable[[torch.Tensor], torch.Tensor]


def control_drift(
    segment: torch.Tensor,
    reference: torch.Tensor,
    method: str,
    strength: float = 1.0,
    scope: str = "overlap",
    check: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Bring a segment's brightness, contrast and colour back to those of the frames that it continues.

    Every channel is treated on its own. Beside the result, memory holds a few frames at a time.

    Parameters
    ----------
    segment : torch.Tensor
        The whole segment, ``[L, H, W, 3]`` in [0, 1]; its first k frames show the same as ``reference``.
    reference : torch.Tensor
        The k frames that were given to the segment, ``[k, H, W, 3]`` in [0, 1].
    method : str
        ``off``; ``mean_std``: mean and standard deviation become the reference's; ``histogram``: all quantiles do.
        A channel without contrast, here or in the reference, is only shifted by the difference of the means.
    strength : float
        Share of the correction, 0 to 1: x + strength * (matched - x), then clamped to [0, 1].
    scope : str
        What is compared with the reference. ``overlap``: the segment's own version of these k frames, which
        gives one correction for all frames: what the scene does later stays. ``segment``: each frame by itself,
        which also holds a drift inside of the segment, and with it any real change of the scene's light.
    check : callable, optional
        Is called before each frame, and stops the work by raising, as for a cancel.

    Returns
    -------
    torch.Tensor
        A new tensor ``[L, H, W, 3]``, float32; ``segment`` itself when ``method`` is off or ``strength`` 0.

    Raises
    ------
    ValueError
        Another method or scope, a strength outside of [0, 1], no reference, or frames of different sizes.
    """
    if method not in DRIFT_CONTROLS:
        raise ValueError(f"drift_control is {method!r}: choose one of {', '.join(DRIFT_CONTROLS)}.")
    if scope not in DRIFT_SCOPES:
        raise ValueError(f"drift_scope is {scope!r}: choose one of {', '.join(DRIFT_SCOPES)}.")
    if not 0 <= strength <= 1:
        raise ValueError(f"drift_strength is {strength}: choose 0 to 1.")
    if method == "off" or strength == 0:
        return segment
    check_sizes(reference, segment)
    if not len(reference):
        raise ValueError("There is no given frame to hold the segment's colours to: turn drift_control off.")

    measure, match = _METHODS[method]
    wanted = measure(reference)
    if scope == "overlap":
        change = match(measure(segment[: len(reference)]), wanted)
    result = torch.empty(segment.shape, dtype=torch.float32, device=segment.device)
    for source, target in zip(segment, result, strict=True):
        if check is not None:
            check()
        if scope == "segment":
            change = match(measure(source[None]), wanted)
        frame = source.float()
        torch.add(frame, change(frame), alpha=strength, out=target)
        target.clamp_(0, 1)
    return result


def _mean_and_deviation(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each channel, ``[3]`` in float64 each."""
    total = torch.zeros(frames.shape[-1], dtype=torch.float64, device=frames.device)
    squares = torch.zeros_like(total)
    for frame in frames:
        values = frame.double()
        total += values.sum((0, 1))
        squares += values.square().sum((0, 1))
    pixels = frames[..., 0].numel()
    mean = total / pixels
    return mean, (squares / pixels - mean.square()).clamp(min=0).sqrt()


def _match_mean_and_deviation(
    source: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]
) -> _Change:
    (mean, deviation), (wanted_mean, wanted_deviation) = source, (part.to(source[0]) for part in wanted)
    flat = (deviation < _FLAT) | (wanted_deviation < _FLAT)
    ratio = torch.where(flat, 1.0, wanted_deviation / deviation)
    shift = wanted_mean - mean * ratio
    gain, shift = (ratio - 1).float(), shift.float()
    return lambda frame: frame * gain + shift


@dataclass(frozen=True)
class _Distribution:
    """Values of one channel: those of each filled bin as their mean, rising, with its share of all pixels."""

    values: np.ndarray
    shares: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """Share of the pixels below each value, half of its own bin included."""
        return np.cumsum(self.shares) - self.shares / 2

    @property
    def mean(self) -> float:
        """Mean of all pixels."""
        return float(self.values @ self.shares)

    @property
    def flat(self) -> bool:
        """Whether the channel has no contrast."""
        return float((self.values - self.mean) ** 2 @ self.shares) < _FLAT**2


def _distributions(frames: torch.Tensor) -> list[_Distribution]:
    """Return the distribution of each channel, counted in equal bins, since sorting would need far more memory."""
    channels = frames.shape[-1]
    counts = torch.zeros(channels, _BINS, dtype=torch.float64, device=frames.device)
    sums = torch.zeros_like(counts)
    for frame in frames:
        for channel in range(channels):
            values = frame[..., channel].flatten().double().clamp(0, 1)
            bins = (values * _BINS).long().clamp_(0, _BINS - 1)
            counts[channel] += torch.bincount(bins, minlength=_BINS)
            sums[channel] += torch.bincount(bins, weights=values, minlength=_BINS)
    found = []
    for count, total in zip(counts.cpu().numpy(), sums.cpu().numpy(), strict=True):
        filled = count > 0
        found.append(_Distribution(total[filled] / count[filled], count[filled] / count.sum()))
    return found


def _match_distributions(source: list[_Distribution], wanted: list[_Distribution]) -> _Change:
    # The change at each bin's border: between them it is linear, so a frame needs no search among the quantiles.
    borders = np.linspace(0, 1, _BINS + 1)
    table = torch.from_numpy(
        np.stack([_change_at(borders, *pair) for pair in zip(source, wanted, strict=True)])
    )

    def change(frame: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(frame)
        for channel, at_border in enumerate(table.to(frame)):
            position = frame[..., channel].clamp(0, 1) * _BINS
            below = position.long().clamp_(0, _BINS - 1)
            torch.lerp(at_border[below], at_border[below + 1], position - below, out=result[..., channel])
        return result

    return change


def _change_at(values: np.ndarray, source: _Distribution, wanted: _Distribution) -> np.ndarray:
    """Return what is to be added to ``values`` of one channel: a monotone map's difference to the identity."""
    if source.flat or wanted.flat:
        return np.full_like(values, wanted.mean - source.mean)
    matched = np.interp(source.ranks, wanted.ranks, wanted.values)
    # Beyond both ends this holds the end's difference.
    return np.interp(values, source.values, matched - source.values)


_METHODS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any, Any], _Change]]] = {
    "mean_std": (_mean_and_deviation, _match_mean_and_deviation),
    "histogram": (_distributions, _match_distributions),
}
