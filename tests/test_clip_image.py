"""Start-image preprocessing against the processor that the release uses."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from easyanimate_core.conditioning import clip_image

# Of 255 levels: Pillow sums in fixed point, torch in floating point.
LEVELS = 1.01 / 255


def _picture(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = torch.stack(
        [(rows * f + columns * g).mul(0.13).sin() for f, g in ((1, 2), (3, 1), (2, 5))], dim=-1
    )
    noise = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    return ((waves * 0.3 + 0.35 + noise).clamp(0, 1) * 255).round().div(255)


@pytest.mark.parametrize("size", [(224, 224), (384, 672), (1080, 1919), (333, 777), (97, 60), (225, 500)])
def test_pixels_match_hugging_face(size):
    picture = _picture(*size)
    processor = CLIPImageProcessor(do_normalize=False)
    image = Image.fromarray(np.uint8(picture.mul(255).round().numpy()))
    expected = processor(images=image, return_tensors="pt")["pixel_values"].movedim(1, -1)
    actual = clip_image(picture[None])
    assert actual.shape == expected.shape == (1, 224, 224, 3)
    assert float((actual - expected).abs().max()) <= LEVELS
