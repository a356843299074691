"""Drift control: statistics of one segment, and a look that stays over thirty segments."""

import pytest
import torch

from easyanimate_core.continuation import (
    DRIFT_CONTROLS,
    DRIFT_SCOPES,
    JoinSettings,
    continue_video,
    control_drift,
    plan_segments,
)

METHODS = DRIFT_CONTROLS[1:]
OVERLAP = 4


def picture(height=48, width=64):
    """A coloured texture with black, mid and nearly white parts, ``[height, width, 3]``."""
    noise = torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack(
        [columns * 0.97, 0.1 + 0.3 * rows + 0.2 * noise, 0.4 + 0.25 * torch.sin(9 * columns * rows)], dim=-1
    )


def clip(length=16):
    """The picture, moving a little from frame to frame."""
    return torch.stack([picture().roll(i, 1) for i in range(length)])


def statistics(frames):
    values = frames.double().flatten(0, -2)
    return values.mean(0), values.std(0, correction=0)


def long_video(settings, gain, segments=30):
    """Brightness of each frame of a static video, relative to its first, and the last frame.

    The decoder repeats the last given frame and multiplies its brightness by ``gain`` (of the time in the
    segment, 0 to 1), as real ones do in small.
    """
    start = picture()

    def generate(segment, frames):
        if frames is None:
            return start.repeat(segment.length, 1, 1, 1)
        time = torch.linspace(0, 1, segment.length).view(-1, 1, 1, 1)
        return (frames[-1] * gain(time)).clamp(0, 1)

    plan = plan_segments(16, OVERLAP, count=segments)
    parts = [frames for _, frames, _ in continue_video(plan, OVERLAP, None, generate, settings)]
    video = torch.cat(parts)
    return video.mean((1, 2)) / start.mean((0, 1)), video[-1]


def brighter_throughout(time):
    return torch.full_like(time, 1.02)


def brighter_by_and_by(time):
    return 1 + 0.02 * time


def brighter_at_last(time):
    return 1 + 0.02 * time**3


@pytest.mark.parametrize("scope", DRIFT_SCOPES)
@pytest.mark.parametrize("method", METHODS)
def test_thirty_segments_keep_their_look(method, scope):
    brightness, last = long_video(JoinSettings("linear", method, 1.0, scope), brighter_throughout)
    assert (brightness - 1).abs().max() < 0.03
    assert (last - picture()).abs().mean() < 0.01


@pytest.mark.parametrize("gain", [brighter_throughout, brighter_by_and_by, brighter_at_last])
def test_thirty_segments_without_control_do_not(gain):
    brightness, last = long_video(JoinSettings(), gain)
    assert (brightness[-1] > 1.4).all()
    assert (last - picture()).abs().mean() > 0.2


@pytest.mark.parametrize("gain", [brighter_by_and_by, brighter_at_last])
@pytest.mark.parametrize("method", METHODS)
def test_only_the_scope_segment_holds_what_drifts_inside_of_a_segment(method, gain):
    brightness, last = long_video(JoinSettings("linear", method, 1.0, "segment"), gain)
    assert (brightness - 1).abs().max() < 0.03
    assert (last - picture()).abs().mean() < 0.01
    brightness, _ = long_video(JoinSettings("linear", method, 1.0, "overlap"), gain)
    assert (brightness[-1] > 1.2).all()


@pytest.mark.parametrize("scope", DRIFT_SCOPES)
@pytest.mark.parametrize("method", METHODS)
def test_half_the_strength_is_in_between(method, scope):
    none, half, full = (
        long_video(JoinSettings("linear", method, strength, scope), brighter_throughout, 10)[0][-1]
        for strength in (0.0, 0.5, 1.0)
    )
    assert (half > full + 0.05).all() and (half < none - 0.05).all()


@pytest.mark.parametrize("method", METHODS)
def test_half_the_strength_is_half_the_correction(method):
    reference, segment = clip(OVERLAP) * 0.8, clip() * 0.9 + 0.05
    full = control_drift(segment, reference, method)
    half = control_drift(segment, reference, method, 0.5)
    inside = (full > 0) & (full < 1)
    torch.testing.assert_close(half[inside], ((full + segment) / 2)[inside], atol=1e-6, rtol=0)
    assert inside.float().mean() > 0.9


@pytest.mark.parametrize("scope", DRIFT_SCOPES)
def test_off_and_strength_0_return_the_segment_itself(scope):
    segment = torch.rand(8, 4, 4, 3)
    assert control_drift(segment, segment[:2], "off", 1.0, scope) is segment
    for method in METHODS:
        assert control_drift(segment, segment[:2], method, 0.0, scope) is segment


@pytest.mark.parametrize("scope", DRIFT_SCOPES)
@pytest.mark.parametrize("factor", [0.5, 1.02])
def test_a_factor_comes_back_exactly(factor, scope):
    segment = picture().repeat(8, 1, 1, 1)
    back = control_drift(segment * factor, segment[:3], "mean_std", 1.0, scope)
    torch.testing.assert_close(back, segment, atol=1e-6, rtol=0)


def test_mean_and_deviation_become_the_references():
    segment = clip() * torch.tensor([0.8, 0.6, 0.5]) + torch.tensor([0.1, 0.2, 0.0])
    reference = clip(OVERLAP) * torch.tensor([0.6, 0.7, 0.8]) + torch.tensor([0.2, 0.1, 0.1])
    before = segment.clone(), reference.clone()
    overlap = control_drift(segment, reference, "mean_std")
    for got, wanted in zip(statistics(overlap[:OVERLAP]), statistics(reference), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    for frame in control_drift(segment, reference, "mean_std", scope="segment"):
        for got, wanted in zip(statistics(frame), statistics(reference), strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    assert torch.equal(segment, before[0]) and torch.equal(reference, before[1])


def test_scope_overlap_keeps_what_the_scene_does_later():
    scene = clip()
    scene[8:] *= 0.3
    # Darker than all that was counted, values get the shift of the darkest one, which a factor is not.
    for method, tolerance in (("mean_std", 1e-6), ("histogram", 5e-3)):
        back = control_drift(scene * 1.02, scene[:OVERLAP], method)
        torch.testing.assert_close(back, scene, atol=tolerance, rtol=0)


@pytest.mark.parametrize("scope", DRIFT_SCOPES)
@pytest.mark.parametrize(
    "frames", [clip(), clip() ** 3, (clip() * 255).round() / 255, torch.rand(8, 5, 7, 3)]
)
def test_histogram_of_the_same_frames_changes_nothing(frames, scope):
    frames = frames[:1].repeat(8, 1, 1, 1)
    same = control_drift(frames, frames[:OVERLAP], "histogram", 1.0, scope)
    torch.testing.assert_close(same, frames, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gamma", [0.7, 1.4])
def test_histogram_undoes_a_gamma(gamma):
    scene = clip()
    changed = scene**gamma
    back = control_drift(changed, scene[:OVERLAP], "histogram")
    assert (changed - scene).abs().mean() > 0.05
    assert (back - scene).abs().mean() < 1e-3
    assert (back - scene).abs().max() < 1e-2
    straight = control_drift(changed, scene[:OVERLAP], "mean_std")
    assert (straight - scene).abs().mean() > 5 * (back - scene).abs().mean()


def test_histogram_quantiles_become_the_references():
    segment, reference = torch.rand(8, 32, 32, 3) ** 2, torch.rand(8, 32, 32, 3) * 0.5 + 0.3
    matched = control_drift(segment, reference, "histogram")
    levels = torch.linspace(0.02, 0.98, 21)
    for channel in range(3):
        got, wanted = (torch.quantile(x[..., channel].flatten(), levels) for x in (matched, reference))
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=0)


def test_histogram_gives_clipped_pixels_the_middle_of_what_they_were():
    reference = torch.linspace(0, 1, 48 * 64).view(1, 48, 64, 1).repeat(OVERLAP, 1, 1, 3)
    back = control_drift(reference.clamp(min=0.5), reference, "histogram")
    clipped = reference <= 0.5
    torch.testing.assert_close(back[clipped], torch.full_like(back[clipped], 0.25), atol=2e-3, rtol=0)
    torch.testing.assert_close(back[reference > 0.51], reference[reference > 0.51], atol=2e-3, rtol=0)


def test_histogram_keeps_the_order_and_shifts_beyond_the_ends():
    reference = clip(OVERLAP) * 0.4 + 0.3
    segment = torch.cat([clip(OVERLAP) * 0.5 + 0.25, torch.zeros(1, 48, 64, 3)])
    segment[-1] = torch.linspace(0, 1, 64)[:, None]
    ramp = control_drift(segment, reference, "histogram")[-1, 0]
    assert (ramp.diff(dim=0) >= 0).all()
    for channel in range(3):
        source, wanted = segment[:OVERLAP, ..., channel], reference[..., channel]
        low, high = wanted.min() - source.min(), wanted.max() - source.max()
        values = segment[-1, 0, :, channel]
        below, above = values < source.min() - 1e-3, values > source.max() + 1e-3
        assert below.any() and above.any()
        for side, shift in ((below, low), (above, high)):
            wanted_ramp = (values[side] + shift).clamp(0, 1)
            torch.testing.assert_close(ramp[side, channel], wanted_ramp, atol=1e-3, rtol=0)


@pytest.mark.parametrize("scope", DRIFT_SCOPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [0, 1e-5])
def test_a_channel_without_contrast_is_only_shifted(method, scope, noise):
    # 0.5 is a border of the counting bins: noise around it must not become contrast.
    segment, reference = clip(), clip(OVERLAP)
    segment[..., 1] = 0.5 + noise * (torch.rand(16, 48, 64) - 0.5)
    reference[..., 1] = reference[..., 1] * 0.2 + 0.35
    shifted = control_drift(segment, reference, method, 1.0, scope)[..., 1]
    shift = reference[..., 1].mean() - 0.5
    torch.testing.assert_close(shifted, segment[..., 1] + shift, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_video_that_begins_black_is_not_pressed_flat(method):
    scene = torch.cat([torch.full((OVERLAP, 48, 64, 3), 0.01), clip(12)])
    scene[:OVERLAP] += 0.02 * torch.rand(OVERLAP, 48, 64, 3)
    kept = control_drift(scene, torch.zeros(OVERLAP, 48, 64, 3), method)
    assert kept[:OVERLAP].mean() < 0.01
    torch.testing.assert_close(kept[OVERLAP:], scene[OVERLAP:], atol=0.021, rtol=0)


@pytest.mark.parametrize("scope", DRIFT_SCOPES)
@pytest.mark.parametrize("method", METHODS)
def test_the_result_stays_in_range(method, scope):
    segment, reference = clip() * 0.3 + 0.2, torch.rand(OVERLAP, 48, 64, 3).round()
    result = control_drift(segment, reference, method, 1.0, scope)
    assert result.shape == segment.shape and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_other_precisions(method, dtype):
    segment = (clip() * 1.02).to(dtype)
    before = segment.clone()
    result = control_drift(segment, clip(OVERLAP).to(dtype), method)
    assert result.dtype == torch.float32 and torch.equal(segment, before)
    torch.testing.assert_close(result, clip(), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "median"}, "drift_control is 'median': choose one of off, mean_std, histogram"),
        ({"method": "off", "scope": "video"}, "drift_scope is 'video': choose one of overlap, segment"),
        ({"method": "mean_std", "strength": 1.5}, "drift_strength is 1.5"),
        ({"method": "mean_std", "strength": float("nan")}, "drift_strength is nan"),
    ],
)
def test_unknown_settings(options, message):
    with pytest.raises(ValueError, match=message):
        control_drift(clip(8), clip(2), **options)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (torch.rand(2, 48, 60, 3), r"\[2, 48, 60, 3\] and the segment \[8, 48, 64, 3\]"),
        (torch.rand(9, 48, 64, 3), "more given frames"),
        (torch.rand(0, 48, 64, 3), "no given frame"),
    ],
)
def test_a_reference_that_does_not_go_with_the_segment(reference, message):
    with pytest.raises(ValueError, match=message):
        control_drift(clip(8), reference, "mean_std")
