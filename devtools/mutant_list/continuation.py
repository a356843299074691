"""Mutants of how segments become a longer video."""

from .mutant import mutants_of

CONTINUATION_TESTS, DRIFT_TESTS = "tests/test_continuation.py::", "tests/test_drift.py::"
BY_HAND = f"{CONTINUATION_TESTS}test_two_segments_by_hand"
PLAN = f"{CONTINUATION_TESTS}test_plan_by_hand"

CONTINUATION = [
    *mutants_of(
        "continuation/overlap.py",
        f"{CONTINUATION_TESTS}test_weights",
        (
            "overlap-weight-ends",
            "overlap weights (i + 1) / (k + 1) instead of i / k",
            "torch.arange(overlap, dtype=torch.float32) / max(overlap, 1)",
            "torch.arange(1, overlap + 1, dtype=torch.float32) / (overlap + 1)",
        ),
        (
            "overlap-ease",
            "eased overlap without its second half",
            "ramp * ramp * (3 - 2 * ramp)",
            "ramp * ramp",
        ),
        (
            "overlap-direction",
            "overlap goes from the new segment to the old frames",
            "old * (1 - weight) + frame * weight",
            "old * weight + frame * (1 - weight)",
            f"{CONTINUATION_TESTS}test_mix",
        ),
    ),
    *mutants_of(
        "continuation/joining.py",
        BY_HAND,
        (
            "hand-on-the-first-frames",
            "the first frames of a segment are handed on instead of the last",
            "made[-overlap:].clone()",
            "made[:overlap].clone()",
        ),
        (
            "overlap-twice",
            "the overlap is put out twice",
            "made if segment.last else made[:-overlap]",
            "made",
        ),
        (
            "join-drops-the-start",
            "joined parts lose their first frames instead of the last",
            "part[: len(part) - overlap].to(device)",
            "part[overlap:].to(device)",
            "tests/host/test_extend_video.py::test_video_stays_as_it_is_and_goes_on_from_its_last_frames",
        ),
        (
            "given-frames",
            "a video is continued from its first frames",
            "return given[-overlap:].clone()",
            "return given[:overlap].clone()",
            f"{CONTINUATION_TESTS}test_given_frames_are_the_end_of_the_video_bit_for_bit",
        ),
        (
            "drift-of-itself",
            "drift is measured against the segment itself instead of the given frames",
            "segment, given, settings.drift_control",
            "segment, segment[: len(given)], settings.drift_control",
            f"{DRIFT_TESTS}test_thirty_segments_keep_their_look",
        ),
    ),
    *mutants_of(
        "continuation/plan.py",
        PLAN,
        (
            "segment-start",
            "segments follow each other without an overlap",
            "start += length - overlap",
            "start += length",
        ),
        (
            "last-segment",
            "the last segment is rounded up to a multiple of 8",
            "(total - start) // PARTIAL_STEP * PARTIAL_STEP",
            "-(-(total - start) // PARTIAL_STEP) * PARTIAL_STEP",
        ),
        (
            "continued-start",
            "a continued video has no overlap with what is given",
            "start = given - overlap if given else 0",
            "start = given",
        ),
        (
            "seeds-count-on",
            "the seed after the listed ones is the last one again",
            "range(listed[-1] + 1, ",
            "range(listed[-1], ",
            f"{CONTINUATION_TESTS}test_seeds",
        ),
        (
            "prompts-repeat",
            "the first prompt repeats instead of the last",
            "prompts[-1:] * count",
            "prompts[:1] * count",
            f"{CONTINUATION_TESTS}test_prompts",
        ),
    ),
    *mutants_of(
        "continuation/drift.py",
        f"{DRIFT_TESTS}test_mean_and_deviation_become_the_references",
        (
            "drift-ratio",
            "contrast corrected the wrong way round",
            "wanted_deviation / deviation)",
            "deviation / wanted_deviation)",
        ),
        (
            "drift-shift",
            "mean corrected as if contrast were not",
            "shift = wanted_mean - mean * ratio",
            "shift = wanted_mean - mean",
        ),
        (
            "drift-variance",
            "variance in place of the standard deviation",
            "mean.square()).clamp(min=0).sqrt()",
            "mean.square()).clamp(min=0)",
        ),
        (
            "drift-strength",
            "drift control at full strength always",
            "alpha=strength",
            "alpha=1.0",
            f"{DRIFT_TESTS}test_half_the_strength_is_half_the_correction",
        ),
        (
            "drift-scope",
            "the overlap's correction measured on the whole segment",
            "match(measure(segment[: len(reference)]), wanted)",
            "match(measure(segment), wanted)",
            f"{DRIFT_TESTS}test_scope_overlap_keeps_what_the_scene_does_later",
        ),
        (
            "histogram-ranks",
            "a bin's pixels all count as below it",
            "np.cumsum(self.shares) - self.shares / 2",
            "np.cumsum(self.shares)",
            f"{DRIFT_TESTS}test_histogram_gives_clipped_pixels_the_middle_of_what_they_were",
        ),
        (
            "histogram-direction",
            "histogram's change with the wrong sign",
            "np.interp(values, source.values, matched - source.values)",
            "np.interp(values, source.values, source.values - matched)",
            f"{DRIFT_TESTS}test_histogram_undoes_a_gamma",
        ),
    ),
]
