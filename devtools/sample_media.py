"""Make the sample pictures and the sample video of ``assets``: ``python -m devtools.sample_media``.

They are scenes that nano was not trained on, drawn as those that it was trained on.
"""

import numpy as np
from PIL import Image

from easyanimate_core.video import write_mp4
from training.scenes import Scene

from .base_directory import END_IMAGE, START_IMAGE, START_VIDEO

FPS = 8
# Both leave room on the right, for segments that go on from them.
PICTURES = Scene(
    shape="square",
    colour="green",
    background="blue",
    action="moving right",
    striped="across",
    radius=10.5,
    x=18.0,
    y=33.0,
    speed=1.4,
    angle=0.0,
    frames=16,
)
VIDEO = Scene(
    shape="cross",
    colour="blue",
    background="gray",
    action="moving right",
    striped=None,
    radius=11.0,
    x=14.0,
    y=31.0,
    speed=1.0,
    angle=0.0,
    frames=16,
)


def frames(scene: Scene) -> np.ndarray:
    """Return a scene as ``[frames, side, side, 3]`` uint8."""
    return (scene.render().movedim(1, -1) * 255).round().byte().numpy()


def main() -> None:
    """Write the first and the last frame of one scene, and the whole of the other."""
    first, *_, last = frames(PICTURES)
    Image.fromarray(first).save(START_IMAGE, optimize=True)
    Image.fromarray(last).save(END_IMAGE, optimize=True)
    write_mp4(START_VIDEO, frames(VIDEO), FPS, crf=10, overwrite=True)


if __name__ == "__main__":
    main()
