"""Frame rates as exact fractions, and the ticks in which an mp4 file counts time."""

import math
from fractions import Fraction

import numpy as np

from .errors import VideoWriteError

MAX_FPS = 1000
# How far a rounded NTSC rate such as 23.976 or 29.97 may lie from n / 1.001.
_NTSC_TOLERANCE = 5e-4
_MAX_DENOMINATOR = 100_000
# ffmpeg rounds rates with larger terms, and joins parts in microseconds: ticks may not be finer than that.
_MAX_NUMERATOR = 1_000_000
_MIN_TIMESCALE = 10_000


def exact_rate(fps: float | Fraction) -> Fraction:
    """Return the exact frame rate that a number means.

    Parameters
    ----------
    fps : float or Fraction
        Frames per second; 23.976, 29.97, 59.94 and the like mean the NTSC rates n * 1000/1001.

    Raises
    ------
    VideoWriteError
        If it is no number, or not above 0 and up to 1000.
    """
    if (
        isinstance(fps, bool)
        or not isinstance(fps, (int, float, Fraction, np.number))
        or not math.isfinite(fps)
    ):
        raise VideoWriteError(f"fps is {fps!r}: give a number of frames per second, such as 24.")
    if not 0 < fps <= MAX_FPS:
        raise VideoWriteError(f"fps is {fps}: choose a rate above 0 and up to {MAX_FPS}.")
    if isinstance(fps, Fraction):
        return fps
    nominal = round(float(fps) * 1.001)
    if float(fps) != int(fps) and nominal and abs(float(fps) - nominal / 1.001) < _NTSC_TOLERANCE:
        return Fraction(nominal * 1000, 1001)
    largest = min(_MAX_DENOMINATOR, int(_MAX_NUMERATOR / max(float(fps), 1)))
    rate = Fraction(str(float(fps))).limit_denominator(largest)
    if not rate:
        raise VideoWriteError(f"fps is {fps}: choose a rate of at least 0.001.")
    return rate


def timescale(rate: Fraction) -> int:
    """Return ticks a second such that a frame lasts a whole number of them; at least 10000, as ffmpeg does."""
    ticks = rate.numerator
    while ticks < _MIN_TIMESCALE:
        ticks *= 2
    return ticks
