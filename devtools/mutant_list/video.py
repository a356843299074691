"""Mutants of the mp4 files."""

from .mutant import mutants_of

WRITER_TESTS = "tests/test_video_writer.py::"
COLOURS = f"{WRITER_TESTS}test_colours_survive"

VIDEO = [
    *mutants_of(
        "video/writer.py",
        COLOURS,
        (
            "colour-range",
            "colours in full range under a tag for the limited one",
            "out_range=tv",
            "out_range=pc",
        ),
        (
            "colour-matrix",
            "colours of the matrix BT.709 under a tag for BT.601",
            "out_color_matrix=bt601",
            "out_color_matrix=bt709",
        ),
        (
            "colour-tag",
            "colours of the matrix BT.601 under a tag for BT.709",
            "colorspace=smpte170m",
            "colorspace=bt709",
        ),
        (
            "odd-sides",
            "odd sides are filled with black",
            'mode="edge")',
            'mode="constant")',
            f"{WRITER_TESTS}test_odd_sides_repeat_the_last_line",
        ),
    ),
    *mutants_of(
        "video/frame_rate.py",
        f"{WRITER_TESTS}test_file_plays_with_the_exact_rate",
        (
            "ntsc-rate",
            "23.976 frames a second become 24",
            "Fraction(nominal * 1000, 1001)",
            "Fraction(nominal * 1001, 1001)",
        ),
        (
            "decimal-rate",
            "rates such as 12.5 are rounded",
            "Fraction(str(float(fps))).limit_denominator(largest)",
            "Fraction(round(float(fps)))",
        ),
    ),
]
