"""Mask and masked-video streams: their values, and their latents against the release's."""

import json
from pathlib import Path

import pytest
import torch

from devtools.golden import read_case, relative_error, rule_state_dict
from easyanimate_core.conditioning import encode_inpaint, mask_and_masked_video
from easyanimate_core.vae import SliceVAE, SliceVAEConfig

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted((GOLDEN / "pipeline").glob("*.safetensors"))


@pytest.fixture(scope="module")
def vae():
    config = SliceVAEConfig.from_dict(json.loads((GOLDEN / "vae" / "config.json").read_text()))
    model = SliceVAE(config).eval()
    model.load_state_dict(rule_state_dict({k: v.shape for k, v in model.state_dict().items()}))
    return model


def images(count, value=None):
    given = torch.rand(count, 16, 24, 3)
    return given if value is None else torch.full_like(given, value)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_latents_of_both_streams(path, vae):
    golden, metadata = read_case(path)
    size = [int(metadata[key]) for key in ("frames", "height", "width")]
    start, end = (
        golden[key].float() / 255 if key in golden else None for key in ("start_frames", "end_frames")
    )
    slices = []
    with torch.no_grad():
        latents = encode_inpaint(vae, *mask_and_masked_video(*size, start, end), lambda: slices.append(1))
    assert relative_error(latents, golden["inpaint_latents"]) < 1e-5
    assert slices


def test_start_and_end_frames_are_placed_and_scaled():
    start, end = images(3), images(2)
    mask, video = mask_and_masked_video(8, 16, 24, start, end)
    assert mask.shape == (1, 1, 8, 16, 24) and video.shape == (1, 3, 8, 16, 24)
    assert mask.amax((0, 1, 3, 4)).tolist() == mask.amin((0, 1, 3, 4)).tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    torch.testing.assert_close(video[0, :, :3], start.permute(3, 0, 1, 2) * 2 - 1)
    torch.testing.assert_close(video[0, :, 6:], end.permute(3, 0, 1, 2) * 2 - 1)
    assert (video[0, :, 3:6] == -1).all()


def test_text_to_video_is_all_to_be_generated():
    mask, video = mask_and_masked_video(8, 16, 24, dtype=torch.float16)
    assert (mask == 1).all() and (video == -1).all()
    assert mask.dtype == video.dtype == torch.float16


def test_given_frames_may_fill_the_clip():
    mask, video = mask_and_masked_video(8, 16, 24, images(7, 1.0), images(1, 0.5))
    assert (mask == 0).all()
    assert (video[:, :, :7] == 1).all() and (video[:, :, 7] == 0).all()


def test_alpha_channel_is_ignored():
    with_alpha = torch.cat([images(1, 1.0), torch.zeros(1, 16, 24, 1)], dim=-1)
    assert (mask_and_masked_video(1, 16, 24, with_alpha)[1] == 1).all()


@pytest.mark.parametrize(
    ("frames", "start", "end", "message"),
    [
        (8, None, images(1), "needs a start image"),
        (8, images(7), images(2), "7 start and 2 end frames do not fit in a clip of 8"),
        (1, images(2), None, "do not fit in a clip of 1"),
        (8, torch.rand(1, 16, 16, 3), None, r"start frames have shape \[1, 16, 16, 3\]"),
        (8, images(1), torch.rand(0, 16, 24, 3), "end frames have shape"),
        (0, None, None, "at least one frame"),
    ],
)
def test_impossible_clips(frames, start, end, message):
    with pytest.raises(ValueError, match=message):
        mask_and_masked_video(frames, 16, 24, start, end)
