"""Where a clip is cut in slices: the arithmetic of frames and latent frames."""

TIME_FACTOR = 4
SPACE_FACTOR = 8
SLICE_FRAMES = 8


def latent_frames(frames: int, factor: int = TIME_FACTOR) -> int:
    """Return how many latent frames the Slice VAE makes of ``frames`` frames.

    One frame gives one. An even count gives a quarter of it; in an odd count the first frame is a slice of its
    own. Counts that come back unchanged from decoding are 1, multiples of 8, and multiples of 8 plus 1.

    Parameters
    ----------
    frames : int
        Frames of the clip.
    factor : int
        Frames per latent frame.

    Raises
    ------
    ValueError
        When that many frames cannot be encoded.
    """
    alone = frames % 2
    if frames < 1 or (frames - alone) % factor:
        raise ValueError(
            f"The Slice VAE cannot encode {frames} frames; use 1 frame, a multiple of {factor}, "
            f"or one frame more than a multiple of {factor}."
        )
    return alone + (frames - alone) // factor


def pixel_frames(latents: int, factor: int = TIME_FACTOR) -> int:
    """Return how many frames the Slice VAE decodes from ``latents`` latent frames.

    Parameters
    ----------
    latents : int
        Latent frames of the clip; of an odd count the first one decodes to a single frame.
    factor : int
        Frames per latent frame.

    Raises
    ------
    ValueError
        When ``latents`` is not positive.
    """
    if latents < 1:
        raise ValueError(f"The Slice VAE cannot decode {latents} latent frames; give it at least one.")
    alone = latents % 2
    return alone + (latents - alone) * factor


def encodable_frames(frames: int) -> int:
    """Return the longest clip of at most ``frames`` frames that decodes to as many: 1, 8n or 8n + 1."""
    return 1 if frames < SLICE_FRAMES else frames - max(frames % SLICE_FRAMES - 1, 0)


def slice_spans(length: int, size: int) -> list[tuple[int, int]]:
    """Cut ``length`` frames (or latent frames) in slices.

    Parameters
    ----------
    length : int
        Frames of the clip.
    size : int
        Frames of a slice.

    Returns
    -------
    list of (int, int)
        Start and end of each slice; of an odd length the first frame is a slice of its own.
    """
    alone = length % 2
    spans = [(0, 1)] if alone else []
    return spans + [(start, min(start + size, length)) for start in range(alone, length, size)]


def context_span(span: tuple[int, int], length: int, size: int) -> tuple[int, int]:
    """Return the latent frames that the decoder's mid block sees around the slice ``span``.

    A slice sees the one before and the one after it. The single first latent of an odd clip sees nothing and
    is seen by no other slice.

    Parameters
    ----------
    span : (int, int)
        A slice of :func:`slice_spans` with the same ``length`` and ``size``.
    """
    start, end = span
    alone = length % 2
    if alone and start == 0:
        return span
    return max(start - size, alone), min(end + size, length)
