"""What is measured: a stage of the model, on a clip of one size, with models of one size."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"

GIB = 1024**3
TEXT_TOKENS = 120
# Valid text tokens of the negative and of the positive prompt; the rest is padding.
TEXT_LENGTHS = (20, 100)
CLIP_CHANNELS = 768
CLIP_TOKENS = 8
LATENT_CHANNELS = 4
CFG = 7.0
_TIME, _SPACE = 4, 8


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    name : str
        Unique among all cases.
    stage : str
        ``"step"`` (one forward with both rows of CFG), ``"encode"`` (mask and masked video to latents), ``"decode"``
        or ``"pipeline"`` (all of them, Euler).
    transformer, vae : str
        Sizes of the models, keys of :data:`TRANSFORMERS` and :data:`VAES`.
    frames, height, width : int
        Size of the clip in pixels.
    device : str
        ``"cpu"`` or ``"cuda"``.
    dtype : str
        Name of the torch dtype of weights and activations.
    smoothing : bool
        Whether a decode is smoothed as the release does it; a pipeline's always is.
    given : bool
        Whether the first frame is given.
    steps : int
        Sampling steps of a pipeline.
    cap : float or None
        GPU memory in GiB that ours has to fit into. Such a case has no reference, and runs without the cap as well.
    limit : float or None
        No further repeat is started once the case has taken so many seconds; a first run that took as long is not
        repeated.
    """

    name: str
    stage: str
    transformer: str
    vae: str
    frames: int
    height: int
    width: int
    device: str = "cpu"
    dtype: str = "float32"
    smoothing: bool = False
    given: bool = True
    steps: int = 4
    cap: float | None = None
    limit: float | None = None

    def latent_shape(self, batch: int = 1, channels: int = LATENT_CHANNELS) -> tuple[int, ...]:
        """Return ``(batch, channels, latent frames, height / 8, width / 8)``."""
        return batch, channels, self.frames // _TIME, self.height // _SPACE, self.width // _SPACE


def _cuda(name: str, stage: str, size: tuple[int, int, int], **options: Any) -> Case:
    # The first figure of a size is the height, as in the names of the release's samples.
    height, width, frames = size
    return Case(name, stage, "full", "full", frames, height, width, "cuda", "bfloat16", **options)


_SMALL, _MEDIUM, _LARGE = (384, 672, 144), (576, 1008, 144), (720, 1280, 144)

CPU = (
    Case("transformer-step", "step", "four-heads", "half", 36, 192, 336),
    Case("encode-i2v", "encode", "four-heads", "half", 144, 128, 128),
    Case("decode", "decode", "four-heads", "half", 72, 128, 128),
    Case("decode-smoothed", "decode", "four-heads", "half", 72, 128, 128, smoothing=True),
    Case("pipeline-i2v", "pipeline", "golden", "golden", 32, 128, 128),
)
# The most important first, since a budget may end before the last.
CUDA = (
    _cuda("step-384x672x144", "step", _SMALL, limit=20),
    _cuda("decode-384x672x144", "decode", _SMALL, limit=20),
    _cuda("encode-384x672x144", "encode", _SMALL, limit=20),
    _cuda("i2v-384x672x144-8GB", "pipeline", _SMALL, steps=2, cap=8, limit=0),
    _cuda("t2v-720x1280x144-12GB", "pipeline", _LARGE, given=False, steps=2, cap=12, limit=0),
    _cuda("step-576x1008x144", "step", _MEDIUM, limit=20),
    _cuda("decode-384x672x144-smoothed", "decode", _SMALL, smoothing=True, limit=20),
    _cuda("i2v-720x1280x144-12GB", "pipeline", _LARGE, steps=2, cap=12, limit=0),
)
# Seconds on any machine, for the tests of this tool; not in the list of --list.
TINY = (
    Case("tiny-step", "step", "golden", "golden", 8, 32, 48),
    Case("tiny-encode", "encode", "golden", "golden", 24, 32, 32),
    Case("tiny-decode", "decode", "golden", "golden", 16, 32, 32),
    Case("tiny-decode-smoothed", "decode", "golden", "golden", 16, 32, 32, smoothing=True),
    Case("tiny-pipeline", "pipeline", "golden", "golden", 16, 32, 32),
    Case("tiny-half-step", "step", "golden", "golden", 8, 32, 48, dtype="bfloat16"),
    Case("tiny-capped", "pipeline", "golden", "golden", 8, 32, 32, dtype="bfloat16", given=False, cap=1),
)
SETS = {"cpu": CPU, "cuda": CUDA}

# A key names the file of a configuration and what is changed in it.
TRANSFORMERS = {
    "golden": ("dit/config.json", {}),
    "four-heads": (
        "dit/config.json",
        {
            "num_attention_heads": 4,
            "attention_head_dim": 72,
            "cross_attention_dim": 288,
            "caption_channels": 4096,
        },
    ),
    "full": ("misc/transformer_manifest.json", {}),
}
VAES = {
    "golden": ("vae/config.json", {}),
    "half": ("vae/config.json", {"ch": 64, "ch_mult": [1, 2, 4, 4]}),
    "full": ("misc/vae_manifest.json", {}),
}


def find(names: list[str]) -> list[Case]:
    """Return the cases of these names, in the order of the sets.

    Raises
    ------
    ValueError
        When a name is unknown.
    """
    known = {case.name: case for case in (*CPU, *CUDA, *TINY)}
    for name in names:
        if name not in known:
            raise ValueError(f"There is no case {name!r}; --list shows them all.")
    return [case for case in known.values() if case.name in names]


def transformer_config(size: str) -> dict[str, Any]:
    """Return a ``transformer/config.json``, parsed, for a key of :data:`TRANSFORMERS`."""
    config = _config(*TRANSFORMERS[size])
    for kind in ("motion_module_kwargs_even", "motion_module_kwargs_odd"):
        config[kind] = {**config[kind], "num_attention_heads": config["num_attention_heads"]}
    return config


def vae_config(size: str) -> dict[str, Any]:
    """Return a ``vae/config.json``, parsed, for a key of :data:`VAES`."""
    return _config(*VAES[size])


def _config(file: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {**_read(file), **changes}


@cache
def _read(file: str) -> dict[str, Any]:
    values = json.loads((_GOLDEN / file).read_text(encoding="utf-8"))
    return values.get("config", values)
