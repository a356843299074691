"""One CLIP embedding from those of the first and the last frame."""

import pytest
import torch

from easyanimate_core.conditioning import blend_embeds


@pytest.fixture
def embeds():
    return torch.randn(2, 1, 768, generator=torch.Generator().manual_seed(0)).unbind()


def test_ends_are_the_two_embeddings(embeds):
    start, end = embeds
    assert torch.equal(blend_embeds(start, end, 0.0), start)
    assert torch.equal(blend_embeds(start, end, 1.0), end)


def test_between_them_it_is_linear(embeds):
    start, end = embeds
    torch.testing.assert_close(blend_embeds(start, end, 0.3), 0.7 * start + 0.3 * end)


def test_result_is_of_the_dtype_of_the_start(embeds):
    start, end = embeds
    assert blend_embeds(start.half(), end, 0.5).dtype == torch.float16


@pytest.mark.parametrize("mix", [-0.01, 1.01, float("nan")])
def test_share_outside_0_and_1(embeds, mix):
    with pytest.raises(ValueError, match="must be within 0 and 1"):
        blend_embeds(*embeds, mix)
