"""Every golden case of a folder against the core: ``python -m devtools.parity DIR [--seed N] [--device cuda]``.

The sub-folder says what kind of case a file is; ``dit/config.json`` and ``vae/config.json`` say which models.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from easyanimate_core.checkpoint.lora import merge_lora
from easyanimate_core.conditioning.buckets import closest_size
from easyanimate_core.sampling import release_sigmas, release_timesteps
from easyanimate_core.text.cleaning import clean_prompt, plain_prompt
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from easyanimate_core.vae import SliceVAE, SliceVAEConfig

from . import golden, reference_run

FORWARD_LIMIT = 1e-5
RUN_LIMIT = 1e-4
_EXACT_LIMIT = 0.5
_EVERY = 8
_SPACE, _TIME = 8, 4

_SAMPLERS = {"euler": "Euler", "euler_a": "Euler A", "dpmpp": "DPM++", "pndm": "PNDM", "ddim": "DDIM"}
# These keep their trajectory in the variance-exploding scale.
_EXPLODING = ("Euler", "Euler A")


@dataclass(frozen=True)
class Case:
    """One golden file.

    Attributes
    ----------
    name : str
        Sub-folder and file name without suffix, such as ``dit/image``.
    limit : float
        The relative error must be under this.
    check : callable
        Computes the relative error (the worst one where a file holds several results).
    """

    name: str
    limit: float
    check: Callable[[], float]


@dataclass(frozen=True)
class Result:
    """Outcome of one case; ``reason`` is set where it could not be computed."""

    name: str
    error: float
    passed: bool
    reason: str = ""

    def __str__(self) -> str:
        """Return the report line ``case  relative_error  PASS|FAIL``."""
        line = f"{self.name}  {self.error:.2e}  {'PASS' if self.passed else 'FAIL'}"
        return f"{line}  {self.reason}" if self.reason else line


def cases(folder: Path, seed: int | None = None, device: str = "cpu") -> list[Case]:
    """Return every golden case of ``folder``, in a fixed order.

    Parameters
    ----------
    folder : Path
        Folder with any of the sub-folders dit, vae, sampler, pipeline, lora and misc.
    seed : int, optional
        Seed of the weight rule where a file does not name its own; 7 by default.
    device : str
        Where the models and samplers run.
    """
    golden_folder = _GoldenFolder(Path(folder), golden.DEFAULT_SEED if seed is None else seed, device)
    return [case for kind in _KINDS for case in kind(golden_folder).cases()]


def run_case(case: Case) -> Result:
    """Compute one case; an exception becomes a failure with its message as the reason."""
    try:
        with torch.no_grad():
            error = case.check()
    except Exception as problem:
        text = " ".join(str(problem).split())
        return Result(case.name, math.nan, False, f"{type(problem).__name__}: {text}")
    return Result(case.name, error, error < case.limit)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ``||actual - expected|| / ||expected||``, or ``||actual||`` where the expected tensor is zero."""
    actual, expected = actual.cpu(), expected.cpu()
    if actual.shape == expected.shape and not expected.any():
        return float(actual.double().norm())
    return golden.relative_error(actual, expected)


def _worst(*errors: float) -> float:
    """Return the largest error; one that is not a number is the worst of all."""
    return math.nan if any(math.isnan(error) for error in errors) else max(errors)


class _GoldenFolder:
    """The folder's configurations, and models with rule weights made from them."""

    def __init__(self, path: Path, seed: int, device: str) -> None:
        self.path = path
        self.seed = seed
        self.device = device
        # One of each is kept: cases of a folder mostly share their models.
        self.transformer = lru_cache(maxsize=2)(self._transformer)
        self.vae = lru_cache(maxsize=1)(self._vae)

    def seed_of(self, metadata: dict[str, str], key: str) -> int:
        """Return the seed that a file names under ``key`` or ``seed``, else the folder's."""
        return int(metadata.get(key, metadata.get("seed", self.seed)))

    def _config(self, kind: str) -> dict[str, Any]:
        path = self.path / kind / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: it says which model the cases are of")
        return json.loads(path.read_text(encoding="utf-8"))

    def transformer_config(self) -> TransformerConfig:
        return TransformerConfig.from_dict(self._config("dit"))

    def transformer_weights(self, seed: int, damped: bool = False) -> dict[str, torch.Tensor]:
        model = EasyAnimateTransformer3D(self.transformer_config(), device="meta")
        rule = golden.pipeline_state_dict if damped else golden.rule_state_dict
        return rule(_shapes(model), seed)

    def transformer_of(self, weights: dict[str, torch.Tensor]) -> EasyAnimateTransformer3D:
        return _filled(EasyAnimateTransformer3D(self.transformer_config(), device=self.device), weights)

    def _transformer(self, seed: int, damped: bool = False) -> EasyAnimateTransformer3D:
        return self.transformer_of(self.transformer_weights(seed, damped))

    def _vae(self, seed: int) -> SliceVAE:
        model = _PlacedVAE(SliceVAEConfig.from_dict(self._config("vae")), device=self.device)
        return _filled(model, golden.rule_state_dict(_shapes(model), seed))


class _PlacedVAE(SliceVAE):
    """Takes clips from main memory too, where the conditioning of text-to-video is made."""

    def encode(self, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
        return super().encode(pixels.to(self.quant_conv.weight.device), **options)


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _filled(model: Any, weights: dict[str, torch.Tensor]) -> Any:
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


class _TensorFile:
    """One golden safetensors file, read when it is needed."""

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self._device = device

    @cached_property
    def _content(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        tensors, metadata = golden.read_case(self.path)
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}, metadata

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return self._content[0]

    @property
    def metadata(self) -> dict[str, str]:
        return self._content[1]


class _TensorCases:
    """Base of the kinds whose cases are safetensors files in one sub-folder."""

    name: str
    limit = FORWARD_LIMIT

    def __init__(self, folder: _GoldenFolder) -> None:
        self.folder = folder

    def cases(self) -> Iterator[Case]:
        for path in sorted((self.folder.path / self.name).glob("*.safetensors")):
            yield Case(f"{self.name}/{path.stem}", self.limit, lambda path=path: self._check_file(path))

    def _check_file(self, path: Path) -> float:
        return self.check(_TensorFile(path, self.folder.device))

    def check(self, file: _TensorFile) -> float:
        raise NotImplementedError


class _DitCases(_TensorCases):
    """Single forwards of the transformer."""

    name = "dit"

    def check(self, file: _TensorFile) -> float:
        seed = self.folder.seed_of(file.metadata, "dit_seed")
        return forward_error(self.folder.transformer(seed), file.path.stem, file.tensors, seed)


def forward_error(
    model: EasyAnimateTransformer3D, case: str, tensors: dict[str, torch.Tensor], seed: int
) -> float:
    """Return the error of one transformer forward on the inputs of a golden file."""
    expected = tensors["output"]
    thinned = "latent" not in tensors
    factor = _EVERY if thinned else 1
    frames, height, width = expected.shape[2], expected.shape[3] * factor, expected.shape[4] * factor

    def given(name: str, channels: int) -> torch.Tensor:
        shape = (expected.shape[0], channels, frames, height, width)
        return (
            tensors[name]
            if name in tensors
            else golden.rule_input(f"{case}.{name}", shape, seed).to(expected)
        )

    latent_channels = expected.shape[1] // 2
    x = given("latent", latent_channels)
    if model.config.in_channels > latent_channels:
        x = torch.cat([x, given("inpaint", model.config.in_channels - latent_channels)], dim=1)
    prompt = reference_run.Prompt.from_mask(tensors["text"], tensors["text_mask"])
    clip = tensors.get("clip") if model.config.clip_tokens else None
    active = None if clip is None else _rows_with_clip(tensors["clip_mask"])
    output = model(x, tensors["timestep"], prompt.states, prompt.lengths, clip, active)
    return relative_error(output[..., ::factor, ::factor], expected)


def _rows_with_clip(mask: torch.Tensor) -> list[bool]:
    rows = mask.bool()
    if not torch.equal(rows.any(1), rows.all(1)):
        raise ValueError("clip_mask hides some of a row's CLIP tokens; a row has all of them or none")
    return rows.all(1).tolist()


class _VaeCases(_TensorCases):
    """Encodes and decodes of the Slice VAE."""

    name = "vae"

    def check(self, file: _TensorFile) -> float:
        seed = self.folder.seed_of(file.metadata, "vae_seed")
        direction, _, case = file.path.stem.partition("_")
        vae, tensors = self.folder.vae(seed), file.tensors
        if direction == "encode":
            pixels = tensors["pixels"] if "pixels" in tensors else self._pixels(case, tensors["mean"], seed)
            mean, logvar = vae.encode_moments(pixels)
            return _worst(relative_error(mean, tensors["mean"]), relative_error(logvar, tensors["logvar"]))
        if direction == "decode":
            every = _EVERY if "tiled" in case else 1
            return relative_error(vae.decode(tensors["z"])[..., ::every, ::every], tensors["pixels"])
        raise ValueError("a VAE case is named encode_... or decode_...")

    @staticmethod
    def _pixels(case: str, mean: torch.Tensor, seed: int) -> torch.Tensor:
        batch, _, frames, height, width = mean.shape
        shape = (batch, 3, _TIME * frames, _SPACE * height, _SPACE * width)
        return golden.rule_input(f"vae.{case}.pixels", shape, seed).clamp(-1, 1).to(mean)


class _SamplerCases(_TensorCases):
    """Samplers and schedules on a closed-form epsilon."""

    name = "sampler"

    def check(self, file: _TensorFile) -> float:
        tensors = file.tensors
        short, _, count = file.path.stem.rpartition("_")
        sampler, steps = _sampler(file.metadata.get("sampler", short)), int(file.metadata.get("steps", count))
        final, calls = reference_run.sample(
            self._epsilon, sampler, steps, tensors["noise"], tensors.get("step_noise")
        )
        inputs = calls.inputs if sampler in _EXPLODING else calls.scaled_inputs
        trajectory = torch.stack([*inputs, final])
        # Each entry by itself: the start of Euler's is a hundred times larger than its end.
        errors = [relative_error(a, b) for a, b in zip(trajectory, tensors["trajectory"], strict=True)]
        errors.append(relative_error(final, tensors["final"]))
        errors.append(relative_error(torch.tensor(calls.timesteps), tensors["timesteps"]))
        errors.append(relative_error(release_timesteps(sampler, steps), tensors["timesteps"]))
        if "sigmas" in tensors:
            errors.append(relative_error(release_sigmas(sampler, steps), tensors["sigmas"]))
        return _worst(*errors)

    @staticmethod
    def _epsilon(u: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        t = timestep.double().view(-1, *[1] * (u.ndim - 1))
        a = torch.sqrt(1 - torch.exp(-(1e-4 * t + 9.95e-6 * t**2)))
        return (0.9 * a * u + 0.1 * torch.tanh(2 * u) + 0.02 * torch.sin(t / 100)).float()


def _sampler(name: str) -> str:
    if name not in _SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}, known are {', '.join(_SAMPLERS)}")
    return _SAMPLERS[name]


class _PipelineCases(_TensorCases):
    """Whole runs from noise to pixels."""

    name = "pipeline"
    limit = RUN_LIMIT

    def check(self, file: _TensorFile) -> float:
        tensors, metadata = file.tensors, file.metadata
        output = reference_run.run(
            self.folder.transformer(self.folder.seed_of(metadata, "dit_seed"), damped=True),
            self.folder.vae(self.folder.seed_of(metadata, "vae_seed")),
            positive=reference_run.Prompt.from_mask(tensors["text_pos"], tensors["text_pos_mask"]),
            negative=reference_run.Prompt.from_mask(tensors["text_neg"], tensors["text_neg_mask"]),
            noise=tensors["noise"],
            sampler=_sampler(metadata["sampler"]),
            steps=int(metadata["steps"]),
            cfg=float(metadata["cfg"]),
            frames=int(metadata["frames"]),
            height=int(metadata["height"]),
            width=int(metadata["width"]),
            start=_image_batch(tensors.get("start_frames")),
            end=_image_batch(tensors.get("end_frames")),
            clip_embed=tensors.get("clip_embed"),
            step_noise=tensors.get("step_noise"),
        )
        if "clip_mask_per_step" in tensors:
            expected = _rows_with_clip(tensors["clip_mask_per_step"])
            if expected != output.clip_used:
                raise ValueError(
                    f"CLIP tokens were used in calls {output.clip_used}, the release has {expected}"
                )
        errors = [
            relative_error(output.final_latents, tensors["final_latents"]),
            relative_error(output.video, tensors["video"]),
        ]
        if "inpaint_latents" in tensors and output.inpaint_latents is not None:
            errors.append(relative_error(output.inpaint_latents, tensors["inpaint_latents"]))
        return _worst(*errors)


def _image_batch(frames: torch.Tensor | None) -> torch.Tensor | None:
    """Turn uint8 frames into ComfyUI's IMAGE layout: float in [0, 1]."""
    return None if frames is None else frames.float() / 255


class _LoraCases(_TensorCases):
    """Forwards of the transformer with a LoRA merged in."""

    name = "lora"

    def check(self, file: _TensorFile) -> float:
        seed = self.folder.seed_of(file.metadata, "dit_seed")
        prefix = "lora."
        lora = {name.removeprefix(prefix): t for name, t in file.tensors.items() if name.startswith(prefix)}
        weights = self.folder.transformer_weights(seed)
        if not merge_lora(weights, lora, float(file.metadata.get("multiplier", 1))):
            raise ValueError("the LoRA changed no weight")
        return forward_error(self.folder.transformer_of(weights), file.path.stem, file.tensors, seed)


class _MiscCases:
    """Tables: the error is 0 where every entry agrees, else 1."""

    name = "misc"

    def __init__(self, folder: _GoldenFolder) -> None:
        self._path = folder.path / self.name

    def cases(self) -> Iterator[Case]:
        for path in sorted(self._path.glob("*.json")):
            yield Case(f"{self.name}/{path.stem}", _EXACT_LIMIT, lambda path=path: self._check(path))

    def _check(self, path: Path) -> float:
        table = json.loads(path.read_text(encoding="utf-8"))
        for key, check in self._CHECKS.items():
            if key in path.stem:
                return 0.0 if check(table) else 1.0
        raise ValueError(f"no check is known for such a file, only for {', '.join(self._CHECKS)}")

    @staticmethod
    def _prompts(table: list[dict[str, str]]) -> bool:
        return all(
            clean_prompt(pair["prompt"]) == pair["clean"] and plain_prompt(pair["prompt"]) == pair["plain"]
            for pair in table
        )

    @staticmethod
    def _sizes(table: list[dict[str, int]]) -> bool:
        return all(
            closest_size(row["image_height"], row["image_width"], row["base"])
            == (row["height"], row["width"])
            for row in table
        )

    @staticmethod
    def _buckets(table: dict[str, list[float]]) -> bool:
        return all(
            closest_size(round(float(ratio) * 100), 100) == tuple(size) for ratio, size in table.items()
        )

    @staticmethod
    def _transformer(manifest: dict[str, Any]) -> bool:
        model = EasyAnimateTransformer3D(TransformerConfig.from_dict(manifest["config"]), device="meta")
        return _same_tensors(model, manifest["tensors"])

    @staticmethod
    def _vae(manifest: dict[str, Any]) -> bool:
        model = SliceVAE(SliceVAEConfig.from_dict(manifest["config"]), device="meta")
        return _same_tensors(model, manifest["tensors"])

    _CHECKS = {
        "prompt_cleaning": _prompts,
        "closest_size": _sizes,
        "aspect_ratio": _buckets,
        "transformer_manifest": _transformer,
        "vae_manifest": _vae,
    }


def _same_tensors(model: torch.nn.Module, manifest: dict[str, list[int]]) -> bool:
    expected = {
        name: tuple(shape)
        for name, shape in manifest.items()
        if not name.endswith("pos_encoder.pe") and not name.startswith("loss.")
    }
    return {name: tuple(shape) for name, shape in _shapes(model).items()} == expected


_KINDS = (_DitCases, _VaeCases, _SamplerCases, _PipelineCases, _LoraCases, _MiscCases)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each case and the closing line; return 1 when a case failed or none was found."""
    parser = argparse.ArgumentParser(prog="devtools.parity", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--device", default="cpu", help="where to compute, such as cuda; in float32 without TF32"
    )
    options = parser.parse_args(arguments)
    # On by default in convolutions, where it keeps three digits.
    torch.backends.cudnn.allow_tf32 = False
    found = cases(options.folder, options.seed, options.device)
    if not found:
        print(
            f"no golden cases in {options.folder}: it needs sub-folders such as dit, vae or sampler",
            file=sys.stderr,
        )
    passed = 0
    for case in found:
        result = run_case(case)
        passed += result.passed
        print(result, flush=True)
    print(f"{passed} passed, {len(found) - passed} failed")
    return 0 if found and passed == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
