"""The measures behind ``dev.py quality``: right about clips whose content is known, and blind to none of it."""

import random
from dataclasses import replace

import pytest
import torch

from devtools import shape_measures as measure
from devtools.quality import OPPOSITE, Row, held_out
from training.scenes import MOVES, sample_scene


def truth(action=None, frames=16, seed=0):
    scene = sample_scene(random.Random(seed), frames, held_out=True, action=action)
    return scene, scene.render().movedim(1, -1)


@pytest.mark.parametrize("action", MOVES)
def test_direction_is_that_of_the_clip_and_turns_round_with_it(action):
    scene, frames = truth(action)
    assert measure.direction(frames, scene.colour) == action.removeprefix("moving ")
    assert measure.direction(frames.flip(0), scene.colour) == OPPOSITE[action].removeprefix("moving ")


def test_what_stands_still_has_no_direction():
    scene, frames = truth("moving left")
    assert measure.direction(frames[:1].expand(16, -1, -1, -1), scene.colour) is None


def test_colour_of_a_clip_is_that_of_most_frames():
    scene, frames = truth("moving left")
    painted = frames.clone()
    label = measure.labels(frames[0]) == list(measure.COLOURS).index(scene.colour)
    other = next(name for name in ("red", "green") if name not in (scene.colour, scene.background))
    painted[0][label] = torch.tensor(measure.COLOURS[other])
    assert measure.shape_colour(painted[0]) == other
    assert measure.clip_colour(painted) == scene.colour


def test_only_a_ring_has_a_hole():
    scene, frames = truth("moving left")
    assert not measure.has_hole(frames, scene.colour)
    assert measure.has_hole(replace(scene, shape="ring").render().movedim(1, -1), scene.colour)


def test_an_empty_picture_has_no_shape():
    frame = torch.tensor(measure.COLOURS["blue"]).expand(64, 64, 3)
    assert measure.background(frame) == "blue"
    assert measure.shape_colour(frame) is None
    assert measure.centre(frame, "red") is None


def test_noise_has_no_direction():
    noise = torch.rand(16, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert measure.direction(noise, measure.clip_colour(noise)) is None


def test_cut_and_fade_are_no_way_from_one_to_the_other():
    scene, frames = truth("moving right")
    cut = torch.cat((frames[:1].expand(15, -1, -1, -1), frames[-1:]))
    fade = torch.lerp(frames[:1], frames[-1:], torch.linspace(0, 1, 16).view(-1, 1, 1, 1))
    for clip in (cut, fade):
        places = measure.track(clip, scene.colour)
        assert places is None or not measure.is_monotone(places)


def test_detour_is_no_straight_way():
    line = torch.stack((torch.linspace(0, 20, 16), torch.zeros(16)), dim=1)
    detour = line.clone()
    detour[4:12, 1] = 6
    assert not measure.is_monotone(detour)


def test_monotone_means_without_turning_back():
    line = torch.stack((torch.linspace(0, 20, 16), torch.full((16,), 5.0)), dim=1)
    assert measure.is_monotone(line)
    back = line.clone()
    back[8] = line[4]
    assert not measure.is_monotone(back)
    assert not measure.is_monotone(line[:1].expand(16, 2))


def test_psnr_of_a_known_error():
    picture = torch.full((8, 8, 3), 0.5)
    assert measure.psnr(picture + 0.1, picture) == pytest.approx(20, abs=1e-3)


def test_a_jump_stands_out_of_the_changes():
    _, frames = truth("moving right")
    changes = measure.frame_changes(frames)
    assert changes.max() < 2 * changes.median()
    jumped = torch.cat((frames[:8], frames[12:]))
    assert measure.frame_changes(jumped)[7] > 2 * changes.median()


def test_cases_are_held_out_and_always_the_same():
    cases = held_out(12, 2)
    assert all(case.scene.held_out for case in cases)
    assert [case.scene.action for case in cases] == [*MOVES] * 3
    assert [case.scene for case in cases] == [case.scene for case in held_out(12, 2)]
    assert [case.scene for case in cases] != [case.scene for case in held_out(12, 3)]


@pytest.mark.parametrize(
    ("value", "at_most", "passed"), [(3, False, True), (1, False, False), (1, True, True)]
)
def test_row_knows_whether_it_is_enough(value, at_most, passed):
    row = Row("x", value, 2, "dB", at_most)
    assert row.passed == passed
    assert str(row).startswith("ok" if passed else "MISS")
