"""A folder of videos as a source of training clips: real files in, trained weights out."""

import json
import random
import re
import subprocess

import numpy as np
import pytest
import torch

from easyanimate_core.video import write_mp4
from easyanimate_core.video.ffmpeg import ffmpeg
from training import dit, encoders, vae
from training.clips import ClipError
from training.latents import Encoder
from training.loop import Settings, averaged
from training.videos import SUFFIXES, VideoClips, decode, prepare, read_folder

SIDE = 32
CPU = torch.device("cpu")


def shades(count, height=32, width=32):
    """Frames that get brighter, so that a frame's brightness tells its number."""
    level = np.linspace(20, 230, count).round().astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (count, height, width, 3))


def write(path, frames, fps=8, caption="a shade"):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, np.ascontiguousarray(frames), fps, crf=4)
    if caption:
        path.with_suffix(".txt").write_text(caption)
    return path


def brightness(frames):
    return frames.float().mean(dim=(1, 2, 3)).numpy()


class TestFrames:
    def test_values_and_order(self, tmp_path):
        frames = decode(write(tmp_path / "a.mp4", shades(16)), SIDE, 8)
        assert frames.shape == (16, 3, SIDE, SIDE) and frames.dtype == torch.uint8
        assert np.abs(brightness(frames) - shades(16)[:, 0, 0, 0]).max() < 2

    @pytest.mark.parametrize(("fps", "count"), [(4, 8), (16, 32)])
    def test_frame_rate(self, tmp_path, fps, count):
        frames = decode(write(tmp_path / "a.mp4", shades(16)), SIDE, fps)
        assert abs(len(frames) - count) <= 1
        # The video lasts as long as before: both ends are there.
        assert brightness(frames)[0] < 40 and brightness(frames)[-1] > 210

    @pytest.mark.parametrize("tall", [False, True])
    def test_middle_is_cut_out_and_resized(self, tmp_path, tall):
        picture = np.zeros((64, 128, 3), np.uint8)
        picture[:, 32:96, 0] = 250
        picture[:32, 32:96, 1] = 250
        picture = picture.transpose(1, 0, 2) if tall else picture
        frame = decode(write(tmp_path / "a.mp4", [picture] * 8), SIDE, 8)[0].float()
        frame = frame.transpose(1, 2) if tall else frame
        # Red everywhere, green in the upper half, nothing of the black sides.
        assert frame[0, 2:-2, 2:-2].min() > 230
        assert frame[1, 2:14, 2:-2].min() > 230 and frame[1, 18:-2, 2:-2].max() < 20

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_containers(self, tmp_path, suffix):
        source = write(tmp_path / "source" / "a.mp4", shades(16))
        path = tmp_path / f"b{suffix}"
        codec = ["-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0"] if suffix == ".webm" else []
        subprocess.run([*ffmpeg(), "-i", str(source), *codec, str(path)], check=True)
        path.with_suffix(".txt").write_text("a shade")
        (video,) = (video for video in read_folder(tmp_path, SIDE, 8) if video.name == path.name)
        assert abs(len(video.frames) - 16) <= 1
        assert np.all(np.diff(brightness(video.frames)) > 0)


class TestCaptions:
    def read(self, folder):
        return {video.name: video.caption() for video in read_folder(folder, SIDE, 8)}

    def test_text_beside_the_video_with_any_white_space(self, tmp_path):
        write(tmp_path / "a.mp4", shades(8), caption="\ufeffa shade\n that  grows\n")
        assert self.read(tmp_path) == {"a.mp4": "a shade that grows"}

    def test_table_of_hugging_face(self, tmp_path):
        write(tmp_path / "a.mp4", shades(8), caption=None)
        write(tmp_path / "in" / "b.mp4", shades(8), caption="its own")
        (tmp_path / "metadata.csv").write_text(
            'file_name,text\na.mp4,"red, then ""blue"""\nin/b.mp4,the table\'s\n'
        )
        assert self.read(tmp_path) == {"a.mp4": 'red, then "blue"', "in/b.mp4": "its own"}

    def test_table_of_easyanimate(self, tmp_path):
        write(tmp_path / "train" / "a.mp4", shades(8), caption=None)
        rows = [{"file_path": "train/a.mp4", "text": "a shade", "type": "video"}]
        (tmp_path / "metadata.json").write_text(json.dumps(rows))
        assert self.read(tmp_path) == {"train/a.mp4": "a shade"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "up.mp4", shades(40), caption="A grey wall, getting brighter")
    write(folder / "down.mp4", shades(32)[::-1], caption="a black background")
    return read_folder(folder, SIDE, 8)


class TestClips:
    def test_neighbouring_frames_of_one_video(self, videos):
        source = VideoClips(videos, 32)
        starts = set()
        for seed in range(40):
            clip = source.draw(random.Random(seed), 16)
            video = next(video for video in videos if video.name == clip.name)
            assert clip.caption() == video.caption()
            begin = next(
                i for i in range(len(video.frames)) if torch.equal(video.frames[i : i + 16], clip.frames)
            )
            starts.add((clip.name, begin, len(video.frames) - 16 - begin))
        assert {name for name, *_ in starts} == {"up.mp4", "down.mp4"}
        assert {0} < {begin for _, begin, _ in starts} and 0 in {left for *_, left in starts}

    def test_pixels_between_0_and_1(self, videos):
        clip = VideoClips(videos, 32).draw(random.Random(0), 32)
        pixels = clip.render()
        assert pixels.shape == (32, 3, SIDE, SIDE) and pixels.dtype == torch.float32
        assert torch.equal(pixels.mul(255).round().byte(), clip.frames) and 0.5 < pixels.max() <= 1

    def test_same_choices_for_the_same_seed(self, videos):
        source = VideoClips(videos, 32)
        one, other = (source.draw(random.Random(5), 8) for _ in range(2))
        assert one.name == other.name and torch.equal(one.frames, other.frames)


class TestPrepared:
    def test_holds_what_the_videos_do(self, tmp_path):
        write(tmp_path / "videos" / "in" / "a.mp4", shades(8), caption="a shade")
        (path,) = prepare(tmp_path / "videos", tmp_path / "prepared", SIDE, 8)
        assert path == tmp_path / "prepared" / "in" / "a.mp4.pt"
        (video,), (again,) = (
            read_folder(tmp_path / "videos", SIDE, 8),
            read_folder(tmp_path / "prepared", SIDE),
        )
        assert (again.name, again.text) == (video.name, video.text) == ("in/a.mp4", "a shade")
        assert torch.equal(again.frames, video.frames)

    def test_other_size_is_refused(self, tmp_path):
        write(tmp_path / "videos" / "a.mp4", shades(8))
        prepare(tmp_path / "videos", tmp_path / "prepared", SIDE, 8)
        with pytest.raises(ClipError, match=r"frames of \[3, 32, 32\], but \[3, 64, 64\] is needed"):
            read_folder(tmp_path / "prepared", 64)

    def test_other_file_is_refused(self, tmp_path):
        torch.save([1], tmp_path / "a.pt")
        with pytest.raises(ClipError, match=r"a\.pt is no prepared video"):
            read_folder(tmp_path, SIDE)


class TestRefusals:
    def refusal(self, folder):
        with pytest.raises(ClipError) as error:
            VideoClips(read_folder(folder, SIDE, 8), 32)
        message = str(error.value)
        assert message.endswith(".") and "\n" not in message and not re.search(r"[.!?]\s+[A-Z]", message)
        return message

    def test_no_folder(self, tmp_path):
        assert "There is no folder" in self.refusal(tmp_path / "missing")

    def test_no_videos(self, tmp_path):
        (tmp_path / "a.txt").write_text("a shade")
        assert "has no videos: put .mp4, .webm" in self.refusal(tmp_path)

    def test_no_caption(self, tmp_path):
        write(tmp_path / "a.mp4", shades(32), caption=None)
        assert "a.mp4 has no caption: write what it shows into a.txt" in self.refusal(tmp_path)

    def test_empty_caption(self, tmp_path):
        write(tmp_path / "a.mp4", shades(32), caption=" \n")
        assert "a.mp4 has no caption" in self.refusal(tmp_path)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("metadata.csv", "file,caption\na.mp4,a shade\n"),
            ("metadata.json", "{"),
            ("metadata.json", '[{"file_path": "a.mp4", "text": null}]'),
        ],
    )
    def test_bad_table(self, tmp_path, name, text):
        write(tmp_path / "a.mp4", shades(32), caption=None)
        (tmp_path / name).write_text(text)
        message = self.refusal(tmp_path)
        assert f"{name} is no table of captions" in message and "and 'text'" in message

    def test_no_video_at_all(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"no video")
        (tmp_path / "a.txt").write_text("a shade")
        assert "a.mp4 cannot be read as a video (" in self.refusal(tmp_path)

    def test_file_that_is_cut_short(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
        path = write(tmp_path / "a.mp4", noise)
        path.write_bytes(path.read_bytes()[:-20000])
        assert "a.mp4 cannot be read as a video (" in self.refusal(tmp_path)

    def test_clip_that_is_too_short(self, tmp_path):
        write(tmp_path / "a.mp4", shades(31))
        assert "a.mp4 has 31 frames, but clips of 32 are cut from it" in self.refusal(tmp_path)


class StopsAfterTwoSteps:
    """Clips that end when the run has saved two steps, as a power cut would end it."""

    def __init__(self, source, run):
        self.source, self.side, self.state = source, source.side, run / "state.pt"

    def draw(self, rng, frames):
        if self.state.is_file() and torch.load(self.state, weights_only=True)["step"] == 2:
            raise InterruptedError
        return self.source.draw(rng, frames)


class TestTraining:
    """Each stage trains on videos, and a run that was cut off ends like a whole one."""

    @pytest.fixture
    def assert_resumes(self, tmp_path, videos):
        def check(train):
            settings = Settings(4, 1e-3, save_seconds=0)
            whole, broken = tmp_path / "whole", tmp_path / "broken"
            source = VideoClips(videos, 32)
            train(whole, settings, source)
            with pytest.raises(InterruptedError):
                train(broken, settings, StopsAfterTwoSteps(source, broken))
            half = averaged(broken)
            train(broken, settings, source)
            expected, resumed = averaged(whole), averaged(broken)
            assert all(torch.equal(resumed[name], expected[name]) for name in expected)
            assert not all(torch.equal(half[name], expected[name]) for name in expected)

        return check

    def test_vae(self, assert_resumes, vae_config):
        def train(folder, settings, source):
            vae.train(folder, settings, CPU, source=source, config=vae_config)

        assert_resumes(train)

    def test_encoders(self, assert_resumes):
        def train(folder, settings, source):
            encoders.train(folder, settings, CPU, batch=4, source=source)

        assert_resumes(train)

    def test_transformer(self, assert_resumes, make_base, transformer_config):
        def train(folder, settings, source):
            base = make_base()
            encoder = Encoder(base.vae, base.clip, CPU, source)
            # Every step replaces one of three clips.
            options = {
                "pool_size": 3,
                "refresh": 1.0,
                "config": transformer_config,
                "weights": base.transformer,
            }
            dit.train(folder, settings, encoder, base.text, CPU, **options)

        assert_resumes(train)
