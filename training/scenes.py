"""The clips that nano is trained on: one coloured shape that does one thing over a plain or striped background."""

import math
import random
import zlib
from dataclasses import dataclass, replace

import torch

# RGB in [0, 1], far apart, so that a pixel's nearest entry tells its colour.
COLOURS = {
    "red": (0.88, 0.14, 0.14),
    "green": (0.13, 0.66, 0.22),
    "blue": (0.16, 0.28, 0.88),
    "yellow": (0.96, 0.84, 0.14),
    "purple": (0.58, 0.18, 0.76),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.06),
    "gray": (0.50, 0.50, 0.50),
}
SHAPE_COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
BACKGROUNDS = tuple(COLOURS)
SHAPES = ("circle", "square", "triangle", "cross")
# Unit steps (right, down) of an image's axes.
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOVES = tuple(f"moving {direction}" for direction in DIRECTIONS)
ACTIONS = (*MOVES, "bouncing", "growing", "shrinking", "rotating")

SIDE = 64
MAX_FRAMES = 32
# Frames that a clip goes on from where it is several; Extend Video gives the most by default.
LEADS = (2, 3, 4, 4)
_STRIPE_WIDTH = 8
_STRIPE_SHADE = 0.78
# Width of an edge in pixels, as a camera's lens would blur it.
_EDGE = 2.5
_MOVING_SHARE = 0.62
# Share of the clips that turn back once, which is what a new prompt asks of a video that goes on.
_TURNING_SHARE = 0.4
_TEST_SHARE = 5
_RADIUS = (8.5, 12.5)
_SPEED = (1.0, 1.4)
_BOUNCE_FRAMES = 12


@dataclass(frozen=True)
class Scene:
    """One clip before it is drawn.

    Attributes
    ----------
    shape, colour, background, action : str
        Of :data:`SHAPES`, :data:`SHAPE_COLOURS`, :data:`BACKGROUNDS` and :data:`ACTIONS`.
    striped : str or None
        ``"across"`` or ``"down"``: direction of the background's stripes.
    radius : float
        Half the shape's size in pixels in the first frame.
    x, y : float
        Centre in the first frame, pixels from the upper left corner.
    speed : float
        Pixels a frame of a moving shape, height in pixels of a bounce, final size as a multiple of the first of a growing or
        shrinking shape, radians a frame of a rotating one.
    angle : float
        Rotation in the first frame, in radians.
    frames : int
        Length of the clip.
    lead : int
        Number of first frames in which all goes the other way, so that the caption is true only after them.
    """

    shape: str
    colour: str
    background: str
    action: str
    striped: str | None
    radius: float
    x: float
    y: float
    speed: float
    angle: float
    frames: int
    lead: int = 0

    @property
    def held_out(self) -> bool:
        """Whether this combination of words is kept from training, to test on."""
        words = f"{self.colour} {self.shape} {self.action} {self.background}"
        return zlib.crc32(words.encode()) % _TEST_SHARE == 0

    def caption(self) -> str:
        """Return the clip in words, such as "a red circle moving right on a striped blue background"."""
        stripes = "striped " if self.striped else ""
        return f"a {self.colour} {self.shape} {self.action} on a {stripes}{self.background} background"

    def partial_caption(self, rng: random.Random) -> str:
        """Return the caption with parts left out, so that a prompt may name one thing alone."""
        action = f" {self.action}" if rng.random() < 0.7 else ""
        background = self.caption().split(" on ")[1]
        background = f" on {background}" if rng.random() < 0.6 else ""
        colour = f"{self.colour} " if rng.random() < 0.7 else ""
        shape = self.shape if rng.random() < 0.7 else "shape"
        return f"a {colour}{shape}{action}{background}"

    def render(self) -> torch.Tensor:
        """Draw the clip: ``[frames, 3, 64, 64]`` in [0, 1], float32."""
        t = (torch.arange(self.frames, dtype=torch.float32) - self.lead).abs()
        x, y = torch.full_like(t, self.x), torch.full_like(t, self.y)
        radius, angle = torch.full_like(t, self.radius), torch.full_like(t, self.angle)
        if self.action in MOVES:
            right, down = DIRECTIONS[self.action.removeprefix("moving ")]
            x, y = x + right * self.speed * t, y + down * self.speed * t
        elif self.action == "bouncing":
            y = y - self.speed * (t * math.pi / _BOUNCE_FRAMES).sin().abs()
        elif self.action == "rotating":
            angle = angle + self.speed * t
        else:
            radius = radius * (1 + (self.speed - 1) * t / (self.frames - 1))
        axis = torch.arange(SIDE, dtype=torch.float32) + 0.5
        distance = _distance(
            self.shape,
            axis - x[:, None, None],
            axis[:, None] - y[:, None, None],
            radius[:, None, None],
            angle,
        )
        cover = (0.5 - distance / _EDGE).clamp(0, 1)[:, None]
        colour = torch.tensor(COLOURS[self.colour]).view(3, 1, 1)
        return torch.lerp(self._backdrop(axis), colour, cover)

    def _backdrop(self, axis: torch.Tensor) -> torch.Tensor:
        """Draw the background: ``[3, 64, 64]``."""
        colour = torch.tensor(COLOURS[self.background]).view(3, 1, 1).expand(3, SIDE, SIDE)
        if self.striped is None:
            return colour
        # Black cannot be darker; its second stripe is lighter.
        other = colour * _STRIPE_SHADE if self.background != "black" else colour + 0.1
        odd = (axis // _STRIPE_WIDTH) % 2
        return torch.lerp(
            colour, other, (odd[:, None] if self.striped == "across" else odd).expand(SIDE, SIDE)
        )


def _distance(
    shape: str, dx: torch.Tensor, dy: torch.Tensor, radius: torch.Tensor, angle: torch.Tensor
) -> torch.Tensor:
    """Return how far each pixel lies outside of the shape, negative inside: ``[frames, height, width]``."""
    if shape == "circle":
        return torch.hypot(dx, dy) - radius
    if shape == "ring":
        return (torch.hypot(dx, dy) - 0.75 * radius).abs() - 0.25 * radius
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.9 * radius
    if shape == "triangle":
        # Equilateral, its centre of mass in the middle.
        sides = (v, 0.866 * u - 0.5 * v, -0.866 * u - 0.5 * v)
        return torch.stack(sides).amax(0) - 0.62 * radius
    long, short = radius, 0.36 * radius
    bars = [torch.maximum(u.abs() - a, v.abs() - b) for a, b in ((long, short), (short, long))]
    return torch.minimum(*bars)


def sample_scene(rng: random.Random, frames: int, held_out: bool = False, action: str | None = None) -> Scene:
    """Draw a scene at random.

    Parameters
    ----------
    rng : random.Random
        Source of all choices.
    frames : int
        Length of the clip, 8 to 32; a moving shape stays in the picture that long.
    held_out : bool
        Whether the scene is one to train on (False) or one of the fifth that is kept for tests.
    action : str, optional
        One of :data:`ACTIONS`; drawn if None.
    """
    while True:
        scene = _sample(rng, frames, action)
        if scene.held_out == held_out:
            return scene


class Scenes:
    """Scenes to train on, as a source of clips (:class:`.clips.ClipSource`)."""

    side = SIDE

    def draw(self, rng: random.Random, frames: int) -> Scene:
        """Return a scene of ``frames`` frames, some with a lead of 2 to 4."""
        scene = sample_scene(rng, frames)
        return replace(scene, lead=rng.choice(LEADS)) if rng.random() < _TURNING_SHARE else scene


def _sample(rng: random.Random, frames: int, action: str | None) -> Scene:
    action = action or (
        rng.choice(MOVES) if rng.random() < _MOVING_SHARE else rng.choice(ACTIONS[len(MOVES) :])
    )
    shape = rng.choice(SHAPES[1:] if action == "rotating" else SHAPES)
    colour = rng.choice(SHAPE_COLOURS)
    background = rng.choice([name for name in BACKGROUNDS if name != colour])
    striped = rng.choice(("across", "down")) if rng.random() < 0.35 else None
    radius = rng.uniform(*_RADIUS)
    low, high = radius + 1, SIDE - radius - 1
    x, y = rng.uniform(low, high), rng.uniform(low, high)
    speed = 0.0
    if action in MOVES:
        way = (high - low) * 0.98
        speed = min(rng.uniform(*_SPEED), way / (frames - 1))
        start = rng.uniform(low, high - speed * (frames - 1))
        right, down = DIRECTIONS[action.removeprefix("moving ")]
        if right:
            x = start if right > 0 else SIDE - start
        else:
            y = start if down > 0 else SIDE - start
    elif action == "bouncing":
        speed = rng.uniform(12, 20)
        y = rng.uniform(low + speed, high)
    elif action == "rotating":
        speed = rng.choice((-1, 1)) * rng.uniform(0.07, 0.12)
    elif action == "growing":
        speed = rng.uniform(1.6, 2.0)
        radius *= 0.8
        margin = radius * speed
        x, y = rng.uniform(margin, SIDE - margin), rng.uniform(margin, SIDE - margin)
    else:
        radius *= 1.3
        speed = rng.uniform(0.45, 0.6)
        x, y = rng.uniform(radius, SIDE - radius), rng.uniform(radius, SIDE - radius)
    angle = rng.uniform(-math.pi, math.pi) if action == "rotating" else 0.0
    return Scene(shape, colour, background, action, striped, radius, x, y, speed, angle, frames)
