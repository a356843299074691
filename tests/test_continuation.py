"""The plan of a long video against the release's loop, the mix of the overlap, and the loop over segments."""

import gc
import weakref

import numpy as np
import pytest
import torch

from easyanimate_core.continuation import (
    MAX_OVERLAP,
    MAX_PARTIAL,
    OVERLAP_MIXES,
    PARTIAL_STEP,
    JoinSettings,
    Segment,
    continue_video,
    join_segment,
    mix_overlap,
    overlap_weights,
    per_segment_prompts,
    per_segment_seeds,
    plan_segments,
)

LENGTHS = range(PARTIAL_STEP, MAX_PARTIAL + 1, PARTIAL_STEP)


def grow(partial, overlap, count=None, total=None, given=0):
    """Make a video frame number by frame number; return it and each segment's frame numbers."""
    video = list(range(given))
    segments = []
    while count is None or len(segments) < count:
        kept = video[-overlap:]
        first = kept[0] if kept else 0
        length, finished = partial, False
        if total is not None and first + partial >= total:
            finished = True
            length = total - first
            while length % 8:
                length -= 1
        segment = list(range(first, first + length))
        if len(segment) <= len(kept):
            break
        segments.append((segment, len(kept)))
        video += segment[len(kept) :]
        if finished:
            break
    return video, segments


def assert_same(plan, video, segments):
    assert [list(range(s.start, s.end)) for s in plan] == [frames for frames, _ in segments]
    assert [s.overlap for s in plan] == [kept for _, kept in segments]
    assert [s.length for s in plan] == [len(frames) for frames, _ in segments]
    assert [s.index for s in plan] == list(range(len(segments)))
    assert [s.last for s in plan] == [False] * (len(segments) - 1) + [True]
    assert plan[-1].end == len(video)


def all_lengths():
    return [(p, k) for p in LENGTHS for k in range(1, MAX_OVERLAP + 1) if k < p]


@pytest.mark.parametrize("partial", [8, 16, 24, 72, 144])
def test_plan_by_total_is_the_release_loop(partial):
    compared = refused = 0
    for overlap in range(1, min(MAX_OVERLAP, partial - 1) + 1):
        for given in (0, overlap, overlap + 1, 23, 100):
            for total in range(1, 3 * partial + 40):
                video, segments = grow(partial, overlap, total=total, given=given)
                if segments and segments[0][0]:
                    plan = plan_segments(partial, overlap, total=total, given=given)
                    assert_same(plan, video, segments)
                    assert total - overlap - 7 <= plan[-1].end <= total
                    compared += 1
                else:
                    with pytest.raises(ValueError, match=f"^total_length is {total}"):
                        plan_segments(partial, overlap, total=total, given=given)
                    refused += 1
    assert compared > 500 and refused > 100


def test_plan_by_count_is_the_release_loop():
    for partial, overlap in all_lengths():
        for count in (1, 2, 3, 7):
            for given in (0, overlap, 61):
                plan = plan_segments(partial, overlap, count=count, given=given)
                assert_same(plan, *grow(partial, overlap, count=count, given=given))
                assert all(s.length == partial for s in plan) and len(plan) == count


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # The release's default: 72 frames, 4 overlapping.
        ({"partial": 72, "overlap": 4, "total": 144}, [(0, 72, 0), (68, 72, 4), (136, 8, 4)]),
        ({"partial": 72, "overlap": 4, "total": 140}, [(0, 72, 0), (68, 72, 4)]),
        ({"partial": 72, "overlap": 4, "total": 139}, [(0, 72, 0), (68, 64, 4)]),
        # Shorter than a segment, and not a multiple of 8.
        ({"partial": 72, "overlap": 4, "total": 43}, [(0, 40, 0)]),
        ({"partial": 72, "overlap": 4, "total": 72}, [(0, 72, 0)]),
        ({"partial": 72, "overlap": 4, "total": 8}, [(0, 8, 0)]),
        # Seven frames are left, which floor to none; then eight, of which all but the overlap are new.
        ({"partial": 72, "overlap": 4, "total": 75}, [(0, 72, 0)]),
        ({"partial": 72, "overlap": 4, "total": 76}, [(0, 72, 0), (68, 8, 4)]),
        # Eight frames of which all eight are given add nothing.
        ({"partial": 16, "overlap": 8, "total": 23}, [(0, 16, 0)]),
        ({"partial": 16, "overlap": 8, "total": 24}, [(0, 16, 0), (8, 16, 8)]),
        # One new frame a segment.
        ({"partial": 8, "overlap": 7, "total": 10}, [(0, 8, 0), (1, 8, 7), (2, 8, 7)]),
        ({"partial": 16, "overlap": 8, "count": 3}, [(0, 16, 0), (8, 16, 8), (16, 16, 8)]),
        ({"partial": 72, "overlap": 4, "count": 2, "given": 50}, [(46, 72, 4), (114, 72, 4)]),
        ({"partial": 72, "overlap": 4, "count": 1, "given": 4}, [(0, 72, 4)]),
        ({"partial": 72, "overlap": 4, "total": 61, "given": 50}, [(46, 8, 4)]),
    ],
)
def test_plan_by_hand(arguments, expected):
    plan = plan_segments(**arguments)
    assert [(s.start, s.length, s.overlap) for s in plan] == expected
    assert plan[-1] == Segment(len(expected) - 1, *expected[-1], last=True)


def test_the_total_that_a_refusal_names_is_the_least_that_works():
    for partial, overlap in all_lengths():
        for given in range(overlap, overlap + 10):
            with pytest.raises(ValueError, match="leaves nothing to add") as refusal:
                plan_segments(partial, overlap, total=given, given=given)
            least = int(str(refusal.value).split("choose ")[1].split(" or")[0])
            assert plan_segments(partial, overlap, total=least, given=given)[-1].end > given
            with pytest.raises(ValueError, match="leaves nothing to add"):
                plan_segments(partial, overlap, total=least - 1, given=given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"partial": 12, "overlap": 4, "count": 1}, "partial_length is 12: choose a multiple of 8"),
        ({"partial": 0, "overlap": 4, "count": 1}, "partial_length is 0"),
        ({"partial": 152, "overlap": 4, "count": 1}, "partial_length is 152"),
        ({"partial": 72, "overlap": 0, "count": 1}, "overlap is 0: choose 1 to 8"),
        ({"partial": 72, "overlap": 9, "count": 1}, "overlap is 9"),
        ({"partial": 8, "overlap": 8, "count": 1}, "lower overlap or raise partial_length"),
        ({"partial": 72, "overlap": 4, "count": 1, "given": 3}, r"video has fewer frames \(3\) than overlap"),
        ({"partial": 72, "overlap": 4, "count": 1, "given": -1}, "video has fewer frames"),
        ({"partial": 72, "overlap": 4}, "either segments or total_length"),
        ({"partial": 72, "overlap": 4, "count": 1, "total": 80}, "either segments or total_length"),
        ({"partial": 72, "overlap": 4, "count": 0}, "segments is 0"),
        ({"partial": 72, "overlap": 4, "total": 7}, "total_length is 7: a video has at least 8"),
        ({"partial": 72, "overlap": 4, "total": 0}, "total_length is 0"),
        ({"partial": 72, "overlap": 4, "total": 99, "given": 100}, "nothing to add to a video of 100 frames"),
        ({"partial": 72, "overlap": 4, "total": 103, "given": 100}, "choose 104 or more"),
    ],
)
def test_impossible_plans(arguments, message):
    with pytest.raises(ValueError, match=message) as refusal:
        plan_segments(**arguments)
    assert str(refusal.value).count(".") == 1 and str(refusal.value).endswith(".")


def test_prompts():
    assert per_segment_prompts("a cat\n\n  a dog \n", 2) == ["a cat", "a dog"]
    assert per_segment_prompts("a cat\na dog", 4) == ["a cat", "a dog", "a dog", "a dog"]
    assert per_segment_prompts("a cat\r\na dog\na cow", 2) == ["a cat", "a dog"]
    assert per_segment_prompts(" \n\n", 3) == per_segment_prompts("", 3) == ["", "", ""]


def test_seeds():
    assert per_segment_seeds(43, "", 3) == per_segment_seeds(43, " \n ", 3) == [43, 44, 45]
    assert per_segment_seeds(43, "7\n\n 100 \n", 4) == [7, 100, 101, 102]
    assert per_segment_seeds(43, "7\n8\n9", 2) == [7, 8]
    assert per_segment_seeds(2**64 - 1, "", 2) == [2**64 - 1, 0]
    assert per_segment_seeds(0, f"5\n{2**64 - 1}", 3) == [5, 2**64 - 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("1\n\ncat", "Line 3 of seeds is 'cat'"), ("1.5", "Line 1"), ("-1", "Line 1"), (str(2**64), "Line 1")],
)
def test_seeds_that_are_no_numbers(text, message):
    with pytest.raises(ValueError, match=message):
        per_segment_seeds(0, text, 1)


def test_weights():
    assert overlap_weights(4, "linear").tolist() == [0, 0.25, 0.5, 0.75]
    assert overlap_weights(4, "ease").tolist() == [0, 0.15625, 0.5, 0.84375]
    assert overlap_weights(4, "cut").tolist() == [0, 0, 0, 0]
    for mix in OVERLAP_MIXES:
        for overlap in range(1, MAX_OVERLAP + 1):
            weights = overlap_weights(overlap, mix)
            assert weights.dtype == torch.float32 and weights.shape == (overlap,)
            assert weights[0] == 0 and (weights.diff() >= 0).all() and (weights < 1).all()
    with pytest.raises(ValueError, match="overlap_mix is 'cubic': choose one of linear, ease, cut"):
        overlap_weights(4, "cubic")


@pytest.mark.parametrize("mix", OVERLAP_MIXES)
def test_mix(mix):
    previous, segment = torch.rand(3, 4, 6, 3), torch.rand(8, 4, 6, 3)
    before = previous.clone(), segment.clone()
    mixed = mix_overlap(previous, segment, mix)
    assert torch.equal(previous, before[0]) and torch.equal(segment, before[1])
    share = {"linear": [0, 1 / 3, 2 / 3], "ease": [0, 7 / 27, 20 / 27], "cut": [0, 0, 0]}[mix]
    for i in range(3):
        torch.testing.assert_close(mixed[i], previous[i] * (1 - share[i]) + segment[i] * share[i])
    assert torch.equal(mixed[0], previous[0])
    assert torch.equal(mixed[3:], segment[3:])
    if mix == "cut":
        assert torch.equal(mixed[:3], previous)


def test_mix_is_the_release_arithmetic_bit_for_bit():
    previous, segment = torch.rand(7, 5, 5, 3), torch.rand(8, 5, 5, 3)
    share = torch.tensor([i / 7 for i in range(7)], dtype=torch.float32).view(7, 1, 1, 1)
    assert torch.equal(
        mix_overlap(previous, segment, "linear")[:7], previous * (1 - share) + segment[:7] * share
    )


def test_cut_does_not_read_what_it_drops():
    previous, segment = torch.rand(4, 4, 4, 3), torch.full((8, 4, 4, 3), float("nan"))
    assert torch.equal(mix_overlap(previous, segment, "cut")[:4], previous)


def test_mix_of_half_precision_is_float32():
    previous, segment = torch.rand(2, 4, 4, 3), torch.rand(8, 4, 4, 3).half()
    mixed = mix_overlap(previous, segment, "cut")
    assert mixed.dtype == torch.float32 and torch.equal(mixed[:2], previous)


@pytest.mark.parametrize(
    ("given", "segment", "message"),
    [
        ((4, 8, 8, 3), (8, 8, 6, 3), r"\[4, 8, 8, 3\] and the segment \[8, 8, 6, 3\]"),
        ((8, 8, 3), (8, 8, 8, 3), r"\[8, 8, 3\] and the segment"),
        ((9, 8, 8, 3), (8, 8, 8, 3), r"more given frames \(\[9, 8, 8, 3\]\)"),
    ],
)
@pytest.mark.parametrize("drift_control", ["off", "mean_std"])
def test_frames_that_do_not_go_together(given, segment, message, drift_control):
    with pytest.raises(ValueError, match=message):
        join_segment(torch.rand(given), torch.rand(segment), JoinSettings(drift_control=drift_control))


def test_two_segments_by_hand():
    plan = plan_segments(8, 4, total=12)
    first = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 1, 3) / 16
    second = torch.full((8, 1, 1, 3), 0.75)
    made = iter([first, second])
    steps = list(continue_video(plan, 4, None, lambda *_: next(made), JoinSettings()))
    video = torch.cat([frames for _, frames, _ in steps])
    wanted = [0, 1, 2, 3, 4, 5 * 0.75 + 12 * 0.25, 6 * 0.5 + 12 * 0.5, 7 * 0.25 + 12 * 0.75, 12, 12, 12, 12]
    assert video.shape == (12, 1, 1, 3)
    assert (video[:, 0, 0] * 16).tolist() == [[value] * 3 for value in wanted]


@pytest.mark.parametrize("drift_control", ["off", "mean_std", "histogram"])
@pytest.mark.parametrize("mix", OVERLAP_MIXES)
@pytest.mark.parametrize("known", [0, 20])
def test_given_frames_are_the_end_of_the_video_bit_for_bit(drift_control, mix, known):
    overlap = 3
    plan = plan_segments(16, overlap, total=known + 41, given=known)
    video = torch.rand(known, 6, 4, 3) if known else None
    settings = JoinSettings(mix, drift_control)
    unfinished, received = [], []

    def generate(segment, frames):
        received.append(None if frames is None else frames.clone())
        return torch.rand(segment.length, 6, 4, 3)

    finished = [] if video is None else [video[:-overlap]]
    for segment, frames, tail in continue_video(plan, overlap, video, generate, settings):
        finished.append(frames)
        assert (tail is None) == segment.last
        unfinished.append(tail)
        so_far = torch.cat(finished if segment.last else [*finished, tail])
        assert len(so_far) == segment.end
        wanted = [video[-overlap:] if known else None, *unfinished][segment.index]
        assert (wanted is None) == (received[-1] is None)
        assert wanted is None or torch.equal(received[-1], wanted)
        if mix == "cut" and wanted is not None:
            assert torch.equal(so_far[segment.start : segment.start + overlap], wanted)
    assert len(unfinished) == len(plan) == 3


def test_the_rest_of_a_plan_gives_the_rest_of_the_video():
    plan = plan_segments(16, 4, total=60)
    settings = JoinSettings("ease", "mean_std")

    def generate(segment, frames):
        noise = torch.rand(segment.length, 4, 4, 3, generator=torch.Generator().manual_seed(segment.index))
        return noise if frames is None else (noise + frames.mean()) / 2

    steps = list(continue_video(plan, 4, None, generate, settings))
    rest = list(continue_video(plan[2:], 4, steps[1][2], generate, settings))
    for (segment, frames, _), (_, again, _) in zip(steps[2:], rest, strict=True):
        assert torch.equal(frames, again), segment


def frames_in_memory(height, width):
    """Number of frames of this size that Python's tensors hold, whole storages counted once."""
    gc.collect()
    storages = {
        item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
        for item in gc.get_objects()
        if type(item) is torch.Tensor and item.shape[-3:] == (height, width, 3)
    }
    return sum(storages.values()) / (height * width * 3 * 4)


@pytest.fixture
def new_objects_alone():
    """Keeps what other tests left out of the collector's view: looking through a host's objects takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("drift_control", ["off", "mean_std", "histogram"])
@pytest.mark.usefixtures("new_objects_alone")
def test_only_the_handed_on_frames_stay_in_memory(drift_control):
    plan = plan_segments(16, 4, count=6)
    earlier = []

    def generate(segment, frames):
        assert frames_in_memory(11, 13) == (4 if segment.index else 0)
        assert all(reference() is None for reference in earlier)
        pixels = np.random.default_rng(segment.index).random((segment.length, 11, 13, 3), np.float32)
        earlier.append(weakref.ref(pixels))
        return torch.from_numpy(pixels)

    settings = JoinSettings(drift_control=drift_control)
    for segment, frames, _tail in continue_video(plan, 4, None, generate, settings):
        assert frames_in_memory(11, 13) == 16 + (0 if segment.last else 4)
        # The caller alone decides how long the finished frames live.
        del frames
        assert frames_in_memory(11, 13) == (0 if segment.last else 4)
    assert len(earlier) == 6


def test_the_continued_video_may_be_freed():
    video = torch.rand(40, 4, 4, 3)
    reference = weakref.ref(video)
    plan = plan_segments(16, 4, count=2, given=40)

    def generate(segment, frames):
        assert reference() is None
        return torch.rand(segment.length, 4, 4, 3)

    steps = continue_video(plan, 4, video, generate, JoinSettings())
    del video
    assert len(list(steps)) == 2


def test_a_segment_is_not_changed():
    given, segment = torch.rand(4, 4, 4, 3), torch.rand(8, 4, 4, 3)
    before = segment.clone()
    for drift_control in ("off", "mean_std", "histogram"):
        joined = join_segment(given, segment, JoinSettings(drift_control=drift_control))
        assert torch.equal(segment, before) and torch.equal(joined[0], given[0])
    assert join_segment(None, segment, JoinSettings(drift_control="mean_std")) is segment


@pytest.mark.parametrize(
    ("given_to_plan", "given", "made", "message"),
    [
        (0, None, 9, "Segment 1 came out with 9 frames in place of 8"),
        (0, 4, 8, "plan begins a new video"),
        (10, None, 8, "by its last 4 frames, but 0 are given"),
        (10, 3, 8, "by its last 4 frames, but 3 are given"),
    ],
)
def test_videos_that_do_not_go_with_the_plan(given_to_plan, given, made, message):
    plan = plan_segments(8, 4, count=2, given=given_to_plan)
    frames = None if given is None else torch.rand(given, 4, 4, 3)
    with pytest.raises(ValueError, match=message):
        list(continue_video(plan, 4, frames, lambda *_: torch.rand(made, 4, 4, 3), JoinSettings()))
