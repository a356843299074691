"""Which segments a long video is made of, and the prompt and seed of each."""

from dataclasses import dataclass

PARTIAL_STEP = 8
MAX_PARTIAL = 144
MAX_OVERLAP = 8
# More than a day of video at a frame a segment; the plan of more would take gigabytes by itself.
MAX_SEGMENTS = 100_000
_SEEDS = 2**64
# Digits of the largest seed; Python refuses to read numbers of some thousands.
_SEED_DIGITS = 20


@dataclass(frozen=True)
class Segment:
    """One clip of a long video.

    Attributes
    ----------
    index : int
        Number of the segment, from 0.
    start : int
        Frame of the whole video where the segment's first frame lies.
    length : int
        Frames of the segment, the given ones included.
    overlap : int
        How many of its first frames are given: 0 for a first segment from text or a start image.
    last : bool
        Whether the video ends with it.
    """

    index: int
    start: int
    length: int
    overlap: int
    last: bool

    @property
    def end(self) -> int:
        """Frame of the whole video behind the segment's last frame."""
        return self.start + self.length


def plan_segments(
    partial: int, overlap: int, *, count: int | None = None, total: int | None = None, given: int = 0
) -> tuple[Segment, ...]:
    """Cut a long video in segments, with the arithmetic of the EasyAnimateV3 release (July 2024).

    Each segment begins ``overlap`` frames before the end of what is there. By ``total`` the last one is cut to
    what is left, floored to a multiple of 8; it is left out when nothing new would remain of it. The video's
    length is the last segment's ``end``, at most ``overlap`` + 7 frames below ``total``.

    Parameters
    ----------
    partial : int
        Frames of a segment, 8 to 144, a multiple of 8.
    overlap : int
        Frames that a segment shares with the one before, 1 to 8 and below ``partial``.
    count : int, optional
        Number of segments, all of ``partial`` frames. Either this or ``total``.
    total : int, optional
        Frames of the finished video, the given ones included.
    given : int
        Frames of the video that is continued; 0 begins a new one.

    Returns
    -------
    tuple of Segment
        At least one segment, in the order of the video.

    Raises
    ------
    ValueError
        A number out of range, both or neither of ``count`` and ``total``, a video shorter than the overlap, or a
        total that leaves nothing to make.
    """
    _check_lengths(partial, overlap, given)
    if (count is None) == (total is None):
        raise ValueError("Give either segments or total_length: one of the two decides where the video ends.")
    if count is not None and count < 1:
        raise ValueError(f"segments is {count}: make at least 1.")
    if total is not None:
        _check_total(total, overlap, given)

    spans: list[tuple[int, int]] = []
    start = given - overlap if given else 0
    while count is None or len(spans) < count:
        ends_here = total is not None and start + partial >= total
        length = (total - start) // PARTIAL_STEP * PARTIAL_STEP if ends_here else partial
        if spans and length <= overlap:
            break
        if len(spans) == MAX_SEGMENTS:
            raise ValueError(
                f"total_length is {total}, which takes more than {MAX_SEGMENTS} segments: raise partial_length or lower "
                "overlap."
            )
        spans.append((start, length))
        if ends_here:
            break
        start += length - overlap
    return tuple(
        Segment(index, start, length, overlap if index or given else 0, index == len(spans) - 1)
        for index, (start, length) in enumerate(spans)
    )


def _check_lengths(partial: int, overlap: int, given: int) -> None:
    if not PARTIAL_STEP <= partial <= MAX_PARTIAL or partial % PARTIAL_STEP:
        raise ValueError(
            f"partial_length is {partial}: choose a multiple of {PARTIAL_STEP} from {PARTIAL_STEP} to {MAX_PARTIAL}."
        )
    if not 1 <= overlap <= MAX_OVERLAP:
        raise ValueError(f"overlap is {overlap}: choose 1 to {MAX_OVERLAP} frames.")
    if overlap >= partial:
        raise ValueError(
            f"overlap is {overlap} and partial_length is {partial}, so that a segment would add no frame: "
            "lower overlap or raise partial_length."
        )
    if given and given < overlap:
        raise ValueError(
            f"video has fewer frames ({given}) than overlap ({overlap}): lower overlap or connect a longer video."
        )


def _check_total(total: int, overlap: int, given: int) -> None:
    shortest_segment = PARTIAL_STEP * (overlap // PARTIAL_STEP + 1)
    if not given and total < PARTIAL_STEP:
        raise ValueError(f"total_length is {total}: a video has at least {PARTIAL_STEP} frames.")
    if given and total < given - overlap + shortest_segment:
        raise ValueError(
            f"total_length is {total}, which leaves nothing to add to a video of {given} frames with overlap "
            f"{overlap}: choose {given - overlap + shortest_segment} or more, or give segments instead."
        )


def per_segment_prompts(text: str, count: int) -> list[str]:
    """Return the prompt of each segment: one a line, and the last line for all segments after it.

    Parameters
    ----------
    text : str
        One prompt a line; blank lines are skipped, and lines beyond ``count`` are ignored.
    count : int
        Number of segments.

    Returns
    -------
    list of str
        ``count`` prompts without blanks around them; all empty when ``text`` has no line.
    """
    prompts = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return (prompts + prompts[-1:] * count)[:count]


def per_segment_seeds(seed: int, text: str, count: int) -> list[int]:
    """Return the seed of each segment: the listed ones, then counting on by one.

    Parameters
    ----------
    seed : int
        Seed of the first segment when ``text`` has no line.
    text : str
        One whole number a line; blank lines are skipped, and numbers beyond ``count`` are ignored.
    count : int
        Number of segments.

    Returns
    -------
    list of int
        ``count`` seeds from 0 to 2**64 - 1, where counting on begins again at 0.

    Raises
    ------
    ValueError
        A line, also one beyond ``count``, that is not a whole number in this range.
    """
    listed = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            text = line.strip()
            if not text.isdecimal() or len(text) > _SEED_DIGITS or int(text) >= _SEEDS:
                raise ValueError(
                    f"Line {number} of seeds is {text[:40]!r}: give one whole number a line, from 0 to 2^64 - 1."
                )
            listed.append(int(text))
    listed = listed or [seed]
    counted_on = range(listed[-1] + 1, listed[-1] + 1 + count)
    return [value % _SEEDS for value in [*listed, *counted_on][:count]]
