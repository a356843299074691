"""The size buckets that EasyAnimateV3 was trained on."""

_TABLE_BASE = 512
_SIDE_MULTIPLE = 16

# (height / width as published, rounded; height; width) at base 512.
_BUCKETS = (
    (0.25, 256, 1024),
    (0.26, 256, 992),
    (0.27, 256, 960),
    (0.28, 256, 928),
    (0.32, 288, 896),
    (0.33, 288, 864),
    (0.35, 288, 832),
    (0.4, 320, 800),
    (0.42, 320, 768),
    (0.48, 352, 736),
    (0.5, 352, 704),
    (0.52, 352, 672),
    (0.57, 384, 672),
    (0.6, 384, 640),
    (0.68, 416, 608),
    (0.72, 416, 576),
    (0.78, 448, 576),
    (0.82, 448, 544),
    (0.88, 480, 544),
    (0.94, 480, 512),
    (1.0, 512, 512),
    (1.07, 512, 480),
    (1.13, 544, 480),
    (1.21, 544, 448),
    (1.29, 576, 448),
    (1.38, 576, 416),
    (1.46, 608, 416),
    (1.67, 640, 384),
    (1.75, 672, 384),
    (2.0, 704, 352),
    (2.09, 736, 352),
    (2.4, 768, 320),
    (2.5, 800, 320),
    (2.89, 832, 288),
    (3.0, 864, 288),
    (3.11, 896, 288),
    (3.62, 928, 256),
    (3.75, 960, 256),
    (3.88, 992, 256),
    (4.0, 1024, 256),
)


def closest_size(image_height: int, image_width: int, base: int = _TABLE_BASE) -> tuple[int, int]:
    """Return the video size whose aspect ratio is nearest to that of an image.

    Parameters
    ----------
    image_height, image_width : int
        Size of the image in pixels.
    base : int, optional
        Side in pixels of the square bucket: 512, 768 or 960 for the published checkpoints.

    Returns
    -------
    tuple of int
        Height and width in pixels, multiples of 16, as the EasyAnimateV3 release (July 2024) picks them.

    Raises
    ------
    ValueError
        A size or ``base`` is not positive.
    """
    if image_height <= 0 or image_width <= 0:
        raise ValueError(f"An image of {image_height}x{image_width} pixels has no aspect ratio to match.")
    if base <= 0:
        raise ValueError(f"The base resolution must be positive, and it is {base}.")
    ratio = image_height / image_width
    # The release compares the rounded ratios, so these and not the exact ones decide near a border.
    _, height, width = min(_BUCKETS, key=lambda bucket: abs(bucket[0] - ratio))
    return _scale(height, base), _scale(width, base)


def _scale(side: int, base: int) -> int:
    scaled = side * base // _TABLE_BASE
    return max(scaled // _SIDE_MULTIPLE, 1) * _SIDE_MULTIPLE
