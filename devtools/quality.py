"""``python dev.py quality``: does the nano checkpoint do what it is told? Measured through the nodes in a real ComfyUI.

Scenes are held out from training; seeds are fixed, so that the same figures come out on the same machine.
"""

import argparse
import atexit
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from easyanimate_core.continuation.overlap import mix_overlap
from easyanimate_core.sampling import SAMPLERS
from training.models import NAME, RINGS_LORA
from training.pictures import film_strips, write_png
from training.scenes import MOVES, SHAPE_COLOURS, Scene, sample_scene

from . import shape_measures as measure
from .environment import DEV
from .inprocess_host import InProcessHost

FRAMES = 16
SIDE = 64
STEPS = 20
CFG = 3.0
_OVERLAP = 4
OPPOSITE = dict(zip(MOVES, (MOVES[1], MOVES[0], MOVES[3], MOVES[2]), strict=True))


@dataclass
class Row:
    """A line of the table: what was measured, its figure, and the least (or with ``at_most`` the greatest) that is enough."""

    name: str
    value: float
    bound: float
    unit: str = "%"
    at_most: bool = False

    @property
    def passed(self) -> bool:
        """Whether the figure is good enough."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        """Return the line of the table."""
        sign = "<=" if self.at_most else ">="
        figure = (
            f"{self.value:.1f} {self.unit}" if self.unit in ("%", "dB") else f"{self.value:.2f} {self.unit}"
        )
        return f"{'ok  ' if self.passed else 'MISS'} {self.name:<66} {figure:>10}  ({sign} {self.bound:g})"


class Studio:
    """Nano in a host, and the nodes as functions that take and return pictures.

    Parameters
    ----------
    host : InProcessHost
        A host whose base directory may be empty: nano comes with the pack.
    checkpoint : str
        What the loader node is asked for.
    """

    def __init__(self, host: InProcessHost, checkpoint: str = NAME) -> None:
        self.host = host
        self.model, self.clip, self.vae, self.clip_vision = self.call(
            "EasyAnimateV3Loader", checkpoint=checkpoint, weight_dtype="default"
        )

    def call(self, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        """Run one node's own function and return its outputs."""
        node = self.host.node(node_id)
        with torch.inference_mode():
            return tuple(getattr(node, node.FUNCTION)(**inputs).args)

    def text(self, prompt: str) -> Any:
        """Return the conditioning of a prompt."""
        return self.call("EasyAnimateV3TextEncode", clip=self.clip, text=prompt, clean=True)[0]

    def clip_embedding(self, image: torch.Tensor) -> Any:
        """Return the CLIP embedding of ``[1, height, width, 3]``."""
        return self.call("EasyAnimateV3ImageEncode", clip_vision=self.clip_vision, image=image)[0]

    def latent(
        self,
        prompt: str,
        seed: int,
        *,
        negative: str = "",
        start: torch.Tensor | None = None,
        end: torch.Tensor | None = None,
        latent: torch.Tensor | None = None,
        frames: int = FRAMES,
        model: Any = None,
        **sampling: Any,
    ) -> torch.Tensor:
        """Sample a clip: latents ``[1, 4, T, 8, 8]``; ``start`` and ``end`` are ``[frames, 64, 64, 3]`` in [0, 1]."""
        images = {"start_image": start, "end_image": end}
        if start is not None:
            images["clip_vision_output"] = self.clip_embedding(start[:1])
        positive, negative_, empty = self.call(
            "EasyAnimateV3ImageToVideo",
            positive=self.text(prompt),
            negative=self.text(negative),
            vae=self.vae,
            width=SIDE,
            height=SIDE,
            length=frames,
            batch_size=1,
            **{name: value for name, value in images.items() if value is not None},
        )
        options = {
            "steps": STEPS,
            "cfg": CFG,
            "sampler_name": "Euler",
            "denoise": 1.0,
            "clip_apply_ratio": 0.5,
        } | sampling
        latent_image = empty if latent is None else {"samples": latent}
        sampled = self.call(
            "EasyAnimateV3Sampler",
            model=self.model if model is None else model,
            positive=positive,
            negative=negative_,
            latent_image=latent_image,
            seed=seed,
            **options,
        )
        return sampled[0]["samples"]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the pictures ``[frames, 64, 64, 3]`` in [0, 1] of a latent, with the release's smoothing."""
        return self.call(
            "EasyAnimateV3VAEDecode", vae=self.vae, samples={"samples": latent}, smoothing=True, tiling=True
        )[0]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the latent of pictures ``[frames, 64, 64, 3]``."""
        return self.call("EasyAnimateV3VAEEncode", vae=self.vae, pixels=frames, tiling=True)[0]["samples"]

    def make(self, prompt: str, seed: int, **options: Any) -> torch.Tensor:
        """Sample and decode a clip: ``[frames, 64, 64, 3]`` in [0, 1]."""
        return self.decode(self.latent(prompt, seed, **options))

    def continued(self, prompts: list[str], seed: int, start: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return a video of a segment a prompt, each from the last four frames of the one before.

        The same frames as Extend Video's, whose tests prove it: single clips, their first frames mixed into what is there.
        """
        video = self.make(prompts[0], seed, start=start, **options)
        for index, prompt in enumerate(prompts[1:], 1):
            given = video[-_OVERLAP:]
            segment = self.make(prompt, seed + index, start=given, **options)
            video = torch.cat((video[:-_OVERLAP], mix_overlap(given, segment, "linear")))
        return video


@dataclass
class Case:
    """A scene kept from training and what nano makes of its caption."""

    scene: Scene
    seed: int
    truth: torch.Tensor


def held_out(count: int, seed: int, moving: bool = True) -> list[Case]:
    """Return scenes that training never saw, their moves taken in turn where ``moving``."""
    rng = random.Random(f"quality {seed}")
    actions = [MOVES[index % len(MOVES)] if moving else None for index in range(count)]
    scenes = [sample_scene(rng, FRAMES, held_out=True, action=action) for action in actions]
    return [Case(scene, index, scene.render().movedim(1, -1)) for index, scene in enumerate(scenes)]


def long_moves(count: int) -> list[Scene]:
    """Return scenes that training never saw whose shape stays in the picture for three segments, their moves taken in turn."""
    rng, frames = random.Random("long moves"), 3 * FRAMES - 2 * _OVERLAP
    return [
        sample_scene(rng, frames, held_out=True, action=MOVES[index % len(MOVES)]) for index in range(count)
    ]


def held_out_rings(count: int) -> list[Scene]:
    """Return scenes with a ring that the LoRA's training never saw, their moves taken in turn."""
    rng, rings = random.Random("rings"), []
    while len(rings) < count:
        scene = sample_scene(rng, FRAMES, action=MOVES[len(rings) % len(MOVES)])
        ring = replace(scene, shape="ring")
        if ring.held_out:
            rings.append(ring)
    return rings


def percent(values: list[bool]) -> float:
    """Return the share of true values in percent."""
    return 100 * sum(values) / len(values)


def seam_rows(name: str, worst: list[float]) -> list[Row]:
    """Return the rows of clips' greatest changes at a seam, as multiples of their median change."""
    smooth = percent([ratio <= 2 for ratio in worst])
    return [
        Row(f"{name}: greatest change at any seam / median change", max(worst), 2, "x", True),
        Row(f"{name}: clips without a jump at a seam", smooth, 100),
    ]


def apart(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Return the mean relative distance of latents that belong together."""
    return statistics.mean(((x - y).norm() / y.norm()).item() for x, y in zip(some, others, strict=True))


class Quality:
    """All measures; each returns rows of the table, and keeps clips to look at in ``strips``.

    Parameters
    ----------
    studio : Studio
        Makes the clips.
    share : float
        How much of a measure's cases to take: less than 1 for a quicker look.
    """

    def __init__(self, studio: Studio, share: float = 1.0) -> None:
        self.studio, self.share = studio, share
        self.strips: dict[str, list[torch.Tensor]] = {}

    def _cases(self, count: int, seed: int, moving: bool = True) -> list[Case]:
        return held_out(self._share_of(count), seed, moving)

    def _share_of(self, count: int) -> int:
        # Whole rounds of the four directions.
        return max(round(count * self.share / len(MOVES)), 1) * len(MOVES)

    def _keep(self, name: str, *clips: torch.Tensor) -> None:
        kept = self.strips.setdefault(name, [])
        if len(kept) < 12:
            kept.extend(clip.movedim(-1, 1) for clip in clips)

    def reconstruction(self) -> list[Row]:
        """VAE alone: clips and single pictures to latents and back."""
        clips, pictures = [], []
        for case in self._cases(40, 1, moving=False):
            back = self.studio.vae.decode(self.studio.encode(case.truth))[0]
            clips.append(measure.psnr(back, case.truth))
            picture = case.truth[:1]
            pictures.append(measure.psnr(self.studio.vae.decode(self.studio.encode(picture))[0], picture))
            self._keep("reconstruction", case.truth, back)
        return [
            Row("VAE: PSNR of clips, mean", statistics.mean(clips), 28, "dB"),
            Row("VAE: PSNR of pictures, mean", statistics.mean(pictures), 28, "dB"),
        ]

    def text_to_video(self) -> list[Row]:
        """Prompts alone: colour of the shape and direction of its motion."""
        colours, directions, backgrounds = [], [], []
        for case in self._cases(60, 2):
            frames = self.studio.make(case.scene.caption(), case.seed)
            colours.append(measure.clip_colour(frames) == case.scene.colour)
            wanted = case.scene.action.removeprefix("moving ")
            seen = measure.clip_colour(frames)
            directions.append(seen is not None and measure.direction(frames, seen) == wanted)
            backgrounds.append(measure.background(frames[0]) == case.scene.background)
            self._keep("text_to_video", frames)
        return [
            Row("Text to video: direction of motion is the prompt's", percent(directions), 80),
            Row("Text to video: colour of the shape is the prompt's", percent(colours), 85),
            Row("Text to video: colour of the background is the prompt's", percent(backgrounds), 85),
        ]

    def image_to_video(self) -> list[Row]:
        """A start image: the first frame holds, the shape keeps its colour."""
        first, kept = [], []
        for case in self._cases(40, 3):
            frames = self.studio.make(case.scene.caption(), case.seed, start=case.truth[:1])
            first.append(measure.psnr(frames[0], case.truth[0]))
            kept.append(measure.shape_colour(frames[-1]) == case.scene.colour)
            self._keep("image_to_video", case.truth, frames)
        return [
            Row(
                "Image to video: frame 0 against the start image, median PSNR",
                statistics.median(first),
                24,
                "dB",
            ),
            Row("Image to video: the shape has its colour in the last frame", percent(kept), 90),
        ]

    def first_last(self) -> list[Row]:
        """A start and an end image: the last frame holds, the way between is straight."""
        last, monotone = [], []
        for case in self._cases(40, 4):
            frames = self.studio.make(
                case.scene.caption(),
                case.seed,
                start=case.truth[:1],
                end=case.truth[-1:],
            )
            last.append(measure.psnr(frames[-1], case.truth[-1]))
            places = measure.track(frames, case.scene.colour)
            monotone.append(places is not None and measure.is_monotone(places))
            self._keep("first_last", case.truth, frames)
        return [
            Row(
                "First and last: last frame against the end image, median PSNR",
                statistics.median(last),
                22,
                "dB",
            ),
            Row(
                "First and last: the shape goes from one to the other without turning", percent(monotone), 80
            ),
        ]

    def continuation(self) -> list[Row]:
        """Three segments of one prompt: no jump where they meet."""
        worst = []
        for seed, scene in enumerate(long_moves(self._share_of(20))):
            start = scene.render().movedim(1, -1)[:1]
            worst.append(self._worst_seam("continuation", [scene.caption()] * 3, seed, start))
        return seam_rows("Continuation", worst)

    def turning(self) -> list[Row]:
        """Three segments whose prompts turn the motion back each time: no jump where they meet."""
        worst = []
        for case in self._cases(20, 5):
            there = case.scene.caption()
            back = there.replace(case.scene.action, OPPOSITE[case.scene.action])
            prompts = [there, back, there]
            worst.append(self._worst_seam("turning", prompts, case.seed, case.truth[:1]))
        return seam_rows("Turned back by each prompt", worst)

    def _worst_seam(self, part: str, prompts: list[str], seed: int, start: torch.Tensor) -> float:
        """Return the greatest change from frame to frame where segments meet, as a multiple of the median."""
        video = self.studio.continued(prompts, seed, start)
        changes = measure.frame_changes(video)
        step = FRAMES - _OVERLAP
        # The mix spreads a jump over the overlap, whose first frame is still the old one: each change from there counts.
        seams = [changes[first : first + _OVERLAP].max() for first in (step, 2 * step)]
        self._keep(part, video)
        return (max(seams) / changes.median()).item()

    def guidance(self) -> list[Row]:
        """CFG: at 0 the prompt is ignored, at 1 it is followed, and the higher it is the farther the clip is from that at 0."""
        strengths = (0.0, 1.0, CFG)
        right, latents = {cfg: [] for cfg in strengths}, {cfg: [] for cfg in strengths}
        for case in self._cases(16, 6):
            for cfg in strengths:
                latents[cfg].append(self.studio.latent(case.scene.caption(), case.seed, cfg=cfg))
                colour = measure.clip_colour(self.studio.decode(latents[cfg][-1]))
                right[cfg].append(colour == case.scene.colour)
        # Clip by clip: a factor of the means would fall as nano gets better, since clips that share nothing are equally far.
        farther = [
            apart([most], [none]) > apart([some], [none])
            for none, some, most in zip(*(latents[cfg] for cfg in strengths), strict=True)
        ]
        return [
            Row("CFG 0: right colours (the prompt is ignored)", percent(right[0.0]), 50, at_most=True),
            Row(
                f"CFG {CFG:g}: right colours, more than at CFG 0 by",
                percent(right[CFG]) - percent(right[0.0]),
                40,
            ),
            Row(f"CFG {CFG:g}: farther from the clip at CFG 0 than that of CFG 1", percent(farther), 90),
        ]

    def negative(self) -> list[Row]:
        """A negative prompt that names the colour which a seed gives makes another colour of it."""
        changed, kept = [], []
        for seed in range(self._share_of(16)):
            options = {"prompt": "a circle moving right on a black background", "seed": seed}
            colour = measure.clip_colour(self.studio.make(**options))
            if colour is None:
                changed.append(False)
                kept.append(False)
                continue
            against = self.studio.make(**options, negative=f"a {colour} shape")
            changed.append(measure.clip_colour(against) not in (None, colour))
            self._keep("negative", against)
            other = next(name for name in SHAPE_COLOURS if name != colour)
            kept.append(
                measure.clip_colour(self.studio.make(**options, negative=f"a {other} shape")) == colour
            )
        return [
            Row("Negative prompt: the colour that it names becomes another", percent(changed), 75),
            Row("Negative prompt: one that names another colour keeps it", percent(kept), 50),
            Row(
                "Negative prompt: more often than one that names another colour, by",
                percent(changed) - (100 - percent(kept)),
                20,
            ),
        ]

    def samplers(self) -> list[Row]:
        """Five samplers: all follow the prompt; the four on one path agree, DDIM's clamp takes contrast."""
        cases = self._cases(8, 7)
        rows, latents = [], {}
        for name in SAMPLERS:
            colours = []
            for case in cases:
                options = {
                    "prompt": case.scene.caption(),
                    "seed": case.seed,
                    "sampler_name": name,
                    "steps": 30,
                }
                latent = self.studio.latent(**options, clip_sample=False)
                latents.setdefault(name, []).append(latent)
                if name == "DDIM":
                    latents.setdefault("clamp", []).append(self.studio.latent(**options))
                frames = self.studio.decode(latent)
                colours.append(measure.clip_colour(frames) == case.scene.colour)
                self._keep("samplers", frames)
            rows.append(Row(f"{name}: colour of the shape is the prompt's", percent(colours), 75))
        spread = {name: torch.cat(values).std().item() for name, values in latents.items()}
        clamped = latents.pop("clamp")
        way = apart(latents["DPM++"], latents["PNDM"])
        nearest = min(apart(latents[a], latents[b]) for a, b in combinations(SAMPLERS, 2))
        return [
            *rows,
            Row(
                "DDIM's contrast of latents with its clamp, against that without",
                spread["clamp"] / spread["DDIM"],
                0.95,
                "x",
                True,
            ),
            Row("DDIM with its clamp and without are apart by", 100 * apart(clamped, latents["DDIM"]), 5),
            Row(
                "DPM++ and PNDM (one path) apart, against Euler and Euler A",
                way / apart(latents["Euler"], latents["Euler A"]),
                0.9,
                "x",
                True,
            ),
            Row("The two samplers that are nearest to each other are apart by", 100 * nearest, 0.1),
        ]

    def denoise(self) -> list[Row]:
        """Denoise below 1 keeps the more of a video the lower it is."""
        kept = {strength: [] for strength in (0.3, 0.6, 1.0)}
        for case in self._cases(8, 8):
            latent = self.studio.encode(case.truth)
            for strength, values in kept.items():
                frames = self.studio.make(case.scene.caption(), case.seed, latent=latent, denoise=strength)
                values.append(measure.psnr(frames, case.truth))
        means = {strength: statistics.mean(values) for strength, values in kept.items()}
        return [
            Row("Denoise 0.3 keeps more of a video than 0.6 by", means[0.3] - means[0.6], 1, "dB"),
            Row("Denoise 0.6 keeps more of a video than 1 by", means[0.6] - means[1.0], 1, "dB"),
        ]

    def clip_ratio(self) -> list[Row]:
        """The larger the share of calls with CLIP tokens, the more they change."""
        changes = {ratio: [] for ratio in (0.25, 0.5, 1.0)}
        for case in self._cases(8, 9):
            options = {"prompt": case.scene.caption(), "seed": case.seed, "start": case.truth[:1]}
            without = self.studio.latent(**options, clip_apply_ratio=0.0)
            for ratio, values in changes.items():
                latent = self.studio.latent(**options, clip_apply_ratio=ratio)
                values.append(((latent - without).norm() / without.norm()).item())
        means = [statistics.mean(values) for values in changes.values()]
        return [
            Row("clip_apply_ratio 0.25 changes latents against 0 by", 100 * means[0], 0.1),
            Row("clip_apply_ratio 0.5 changes them more than 0.25, times", means[1] / means[0], 1.05, "x"),
            Row("clip_apply_ratio 1 changes them more than 0.5, times", means[2] / means[1], 1.05, "x"),
        ]

    def lora(self) -> list[Row]:
        """The LoRA that comes with the pack teaches a word that nano never read."""
        lora, _ = self.studio.call(
            "EasyAnimateV3LoraLoader",
            model=self.studio.model,
            lora_name=f"{RINGS_LORA}.safetensors",
            strength_model=1.0,
            strength_clip=0.0,
        )
        rings, colours, without = [], [], []
        for seed, scene in enumerate(held_out_rings(self._share_of(16))):
            frames = self.studio.make(scene.caption(), seed, model=lora)
            rings.append(measure.has_hole(frames, scene.colour))
            colours.append(measure.clip_colour(frames) == scene.colour)
            without.append(measure.has_hole(self.studio.make(scene.caption(), seed), scene.colour))
            self._keep("lora", frames)
        return [
            Row("LoRA: what it draws as a ring has a hole", percent(rings), 75),
            Row("LoRA: the ring's colour is the prompt's", percent(colours), 75),
            Row("Without it: there is a hole", percent(without), 25, at_most=True),
        ]


PARTS = (
    "reconstruction",
    "text_to_video",
    "image_to_video",
    "first_last",
    "continuation",
    "turning",
    "guidance",
    "negative",
    "samplers",
    "denoise",
    "clip_ratio",
    "lora",
)


@dataclass
class Measured:
    """A part's rows of the table, its film strips, and how long it took."""

    name: str
    rows: list[Row]
    strips: torch.Tensor | None
    seconds: float


_quality: list[Quality] = []


def _open(checkpoint: str, share: float) -> None:
    """Start a host in this process, of one thread: for nano's small layers two take twice the time."""
    torch.set_num_threads(1)
    base = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    _quality.append(Quality(Studio(InProcessHost(Path(base)), checkpoint), share))


def _measure(part: str) -> Measured:
    began, quality = time.monotonic(), _quality[0]
    try:
        rows = getattr(quality, part)()
    except Exception as error:
        # The nodes' own exceptions belong to modules that the process which asked cannot import.
        raise RuntimeError(f"{part}: {error}") from None
    strips = quality.strips.pop(part, None)
    return Measured(part, rows, strips and film_strips(strips, zoom=1), time.monotonic() - began)


def measured(
    parts: Sequence[str], jobs: int, checkpoint: str = NAME, share: float = 1.0
) -> Iterator[Measured]:
    """Measure parts side by side, each in a process of one thread, and return them in their order.

    Parameters
    ----------
    parts : sequence of str
        Of :data:`PARTS`.
    jobs : int
        Processes at once.
    checkpoint : str
        What the loader node is asked for.
    share : float
        How much of each part's cases to take.
    """
    with ProcessPoolExecutor(jobs, get_context("spawn"), _open, (checkpoint, share)) as pool:
        yield from pool.map(_measure, parts)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and return 1 if a figure misses its bound."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="dev.py quality", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="measure this part alone; may be repeated"
    )
    parser.add_argument("--checkpoint", default=NAME, help="folder of checkpoints/")
    parser.add_argument("--strips", type=Path, default=DEV / "quality", help="folder for film strips as PNG")
    parser.add_argument(
        "--jobs", type=int, default=min(cores, 4), help="parts to measure at once; nano uses a core each"
    )
    options = parser.parse_args(arguments)
    parts = [name for name in PARTS if not options.only or name in options.only]
    jobs = max(min(options.jobs, len(parts)), 1)
    rows = []
    for part in measured(parts, jobs, options.checkpoint):
        rows += part.rows
        print(*part.rows, f"   [{part.name}, {part.seconds:.0f} s]", sep="\n", flush=True)
        if part.strips is not None:
            write_png(options.strips / f"{part.name}.png", part.strips)
    missed = sum(not row.passed for row in rows)
    print(
        f"{len(rows) - missed} of {len(rows)} figures are good enough; film strips are in {options.strips}."
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
