"""The generated clips: what they show is what their caption says, and tests have scenes that training never sees."""

import random
from dataclasses import replace

import pytest
import torch

from devtools import shape_measures as measure
from training.scenes import ACTIONS, LEADS, MOVES, SIDE, Scenes, sample_scene


def scenes(count, held_out=False, action=None, frames=16):
    rng = random.Random(7)
    return [sample_scene(rng, frames, held_out, action) for _ in range(count)]


def frames_of(scene):
    return scene.render().movedim(1, -1)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("frames", [8, 32])
def test_pictures_are_in_range_and_have_the_colours_of_the_caption(action, frames):
    for scene in scenes(12, action=action, frames=frames):
        clip = frames_of(scene)
        assert clip.shape == (frames, SIDE, SIDE, 3)
        assert 0 <= clip.min() <= clip.max() <= 1
        assert measure.clip_colour(clip) == scene.colour
        assert measure.background(clip[0]) == scene.background
        assert scene.caption().startswith(f"a {scene.colour} {scene.shape} {action} on a ")
        assert scene.caption().endswith(f"{scene.background} background")
        assert ("striped" in scene.caption()) == (scene.striped is not None)


@pytest.mark.parametrize("action", MOVES)
@pytest.mark.parametrize("frames", [8, 16, 32])
def test_shape_moves_where_the_caption_says_and_stays_in_the_picture(action, frames):
    for scene in scenes(12, action=action, frames=frames):
        clip = frames_of(scene)
        assert measure.direction(clip, scene.colour) == action.removeprefix("moving ")
        assert measure.is_monotone(measure.track(clip, scene.colour))
        areas = [(measure.labels(frame) == list(measure.COLOURS).index(scene.colour)).sum() for frame in clip]
        assert min(areas) > 0.8 * max(areas)


@pytest.mark.parametrize("action", [*MOVES, "growing", "rotating"])
def test_lead_shows_the_way_back_before_what_the_caption_says(action):
    for scene in scenes(4, action=action):
        turned, straight = replace(scene, lead=3).render(), scene.render()
        assert torch.equal(turned[3:], straight[:-3])
        assert torch.equal(turned[:3], straight[1:4].flip(0))


def test_some_scenes_to_train_on_have_a_lead():
    rng = random.Random(0)
    leads = [Scenes().draw(rng, 16).lead for _ in range(200)]
    assert set(leads) == {0, *LEADS} and 0.5 < leads.count(0) / 200 < 0.8


@pytest.mark.parametrize(("action", "grows"), [("growing", True), ("shrinking", False)])
def test_area_grows_or_shrinks(action, grows):
    for scene in scenes(12, action=action):
        label = list(measure.COLOURS).index(scene.colour)
        first, last = ((measure.labels(frame) == label).sum() for frame in frames_of(scene)[[0, -1]])
        assert (last > 1.3 * first) if grows else (first > 1.3 * last)


def test_bounce_comes_back_to_the_floor():
    for scene in scenes(12, action="bouncing", frames=32):
        heights = measure.track(frames_of(scene), scene.colour)[:, 1]
        assert (heights[12] - heights[0]).abs() < 1.5
        assert heights[0] - heights[6] > 8


def test_training_and_tests_share_no_scene():
    trained = {" ".join(scene.caption().replace("striped ", "").split()) for scene in scenes(4000)}
    tested = {
        " ".join(scene.caption().replace("striped ", "").split()) for scene in scenes(1000, held_out=True)
    }
    assert not trained & tested
    assert len(tested) > 200
    # Every word is trained, in other company.
    words = {word for caption in trained for word in caption.split()}
    assert {word for caption in tested for word in caption.split()} <= words


def test_partial_captions_say_nothing_else():
    rng = random.Random(0)
    for scene in scenes(200):
        caption = scene.partial_caption(rng)
        assert set(caption.split()) <= {*scene.caption().split(), "shape"}
    shortest = min((scene.partial_caption(rng) for scene in scenes(400)), key=len)
    assert shortest == "a shape"


def test_the_same_seed_draws_the_same_clip():
    assert torch.equal(scenes(1)[0].render(), scenes(1)[0].render())
