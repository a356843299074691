"""Size buckets against the sizes that the release picks."""

import json
from pathlib import Path

import pytest

from easyanimate_core.conditioning import closest_size

MISC = Path(__file__).parent / "golden" / "misc"
CASES = json.loads((MISC / "closest_size.json").read_text())
TABLE = json.loads((MISC / "aspect_ratio_512.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['image_height']}x{c['image_width']}@{c['base']}")
def test_release_sizes(case):
    size = closest_size(case["image_height"], case["image_width"], case["base"])
    assert size == (case["height"], case["width"])


@pytest.mark.parametrize("ratio", TABLE)
def test_every_bucket_is_reachable(ratio):
    assert closest_size(round(float(ratio) * 100), 100, 512) == tuple(TABLE[ratio])


@pytest.mark.parametrize("base", [1, 16, 100, 640, 1024])
def test_any_base_gives_positive_multiples_of_16(base):
    for height, width in [(1, 100), (100, 1), (480, 640)]:
        size = closest_size(height, width, base)
        assert all(side >= 16 and side % 16 == 0 for side in size)


@pytest.mark.parametrize("arguments", [(0, 5, 512), (5, -1, 512), (5, 5, 0)])
def test_impossible_sizes(arguments):
    with pytest.raises(ValueError, match=r"no aspect ratio|must be positive"):
        closest_size(*arguments)
