"""``python -m training``: the stages of training, one command each, and all of them for the nano checkpoint."""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from easyanimate_core.checkpoint import CheckpointError

from . import base, dit, encoders, folder, latents, lora, models, rings, vae, videos, workers
from .clips import ClipError, ClipSource
from .loop import Settings, save_whole
from .scenes import MAX_FRAMES, SIDE
from .whole import SaveError

ROOT = Path(__file__).resolve().parent.parent
_STANDARD_CLIPS = 64


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.action(options)
    except (ClipError, CheckpointError, FileNotFoundError, SaveError) as error:
        sys.stderr.write(f"training: {error}\n")
        return 1
    except OSError as error:
        where = f"{error.filename} cannot be used" if error.filename else "A file cannot be used"
        sys.stderr.write(
            f"training: {where} ({error.strerror or error}): choose another place or allow it.\n"
        )
        return 1
    except torch.multiprocessing.ProcessRaisedException as error:
        sys.stderr.write(f"training: {str(error).strip().splitlines()[-1].partition(': ')[2]}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; the same command goes on from the last save.\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, action: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        return command

    def staged(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command.add_argument("--run", type=Path, default=ROOT / "runs" / "nano", help="folder of the stages")
        return command

    def trained(
        command: argparse.ArgumentParser, steps: int, rate: float, videos_too: bool = True
    ) -> argparse.ArgumentParser:
        staged(command)
        command.add_argument("--steps", type=_positive, default=steps)
        command.add_argument("--rate", type=float, default=rate, help="highest learning rate")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        if videos_too:
            command.add_argument("--videos", type=Path, help="folder of captioned videos, instead of scenes")
            command.add_argument("--fps", type=float, default=8.0, help="frame rate that videos are read at")
        return command

    command = trained(add("vae", _train_vae, "Train the Slice VAE."), 12000, 7e-4)
    command.add_argument(
        "--decoder-only", action="store_true", help="keep the encoder, and with it what the transformer knows"
    )
    trained(add("encoders", _train_encoders, "Train T5 and CLIP on generated scenes."), 1500, 1e-3, False)
    command = trained(add("dit", _train_dit, "Train the diffusion transformer."), 12000, 1e-3)
    command.add_argument("--pool", type=_positive, default=2000, help="encoded clips to keep")
    command.add_argument(
        "--workers", type=_positive, default=1, help="processes that share each batch, on CPUs"
    )
    command.add_argument(
        "--half", action="store_true", help="compute in bfloat16, on CPUs that multiply it (AVX512_BF16, AMX)"
    )
    for name, action, text in (
        ("export", _export, "Write the stages as a checkpoint folder."),
        ("unpack", _unpack, "Lay out a checkpoint folder as stages, to train on from it."),
    ):
        _checkpoint(staged(add(name, action, text)))
    _checkpoint(
        _on_cpus(staged(add("nano", _nano, "Train all stages of nano and write its checkpoint folder.")))
    )
    command = add("prepare", _prepare, "Decode videos, to train on them where there is no ffmpeg.")
    command.add_argument("videos", type=Path, help="folder of captioned videos")
    command.add_argument("target", type=Path, help="folder for the decoded frames")
    command.add_argument("--fps", type=float, default=8.0)
    command.add_argument("--side", type=_positive, default=SIDE, help="height and width in pixels")
    command = trained(add("lora", _train_lora, "Train a LoRA, on videos or on nano's rings."), 600, 1e-3)
    _checkpoint(command)
    command.add_argument("--rank", type=_positive, default=8)
    command.add_argument("--alpha", type=float, help="the rank by default")
    command.add_argument("--pool", type=_positive, default=40, help="encoded clips to train on")
    command.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    command.add_argument("--out", type=Path, default=ROOT / "runs" / "lora.safetensors")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def _checkpoint(command: argparse.ArgumentParser) -> None:
    default = ROOT / "checkpoints" / models.NAME
    command.add_argument("--checkpoint", type=Path, default=default, help="checkpoint folder")


def _on_cpus(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add what makes the transformer's training faster on CPUs."""
    command.add_argument(
        "--workers", type=_positive, default=1, help="processes that share each batch, on CPUs"
    )
    command.add_argument(
        "--half", action="store_true", help="compute in bfloat16, on CPUs that multiply it (AVX512_BF16, AMX)"
    )
    return command


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(options.steps, options.rate, seed=options.seed)


def _source(options: argparse.Namespace, side: int = SIDE) -> ClipSource | None:
    if options.videos is None:
        return None
    return videos.VideoClips(videos.read_folder(options.videos, side, options.fps), MAX_FRAMES)


def _train_vae(options: argparse.Namespace) -> None:
    device, source = torch.device(options.device), _source(options)
    stage = options.run / "vae"
    start = _started(stage)
    if options.decoder_only and start is None:
        raise ClipError(
            f"There is no {stage / 'weights.pt'} to keep the encoder of: unpack a checkpoint into {options.run}."
        )
    config = base.stage_config(stage)
    vae.train(stage, _settings(options), device, source, config, start, options.decoder_only)
    model = vae.build(config)
    model.load_state_dict(base.averaged(stage))
    if options.decoder_only:
        save_whole(stage / "weights.pt", model.state_dict())
        return
    model.to(device).eval().requires_grad_(False)
    clips = [
        vae.draw_scene(random.Random(f"standard {index}"), 16, source) for index in range(_STANDARD_CLIPS)
    ]
    folder.standardise(model, torch.cat([model.encode(clip[None].to(device)) for clip in clips]))
    save_whole(stage / "weights.pt", model.cpu().state_dict())


def _started(stage: Path) -> dict[str, torch.Tensor] | None:
    """Return the weights that ``unpack`` left for a stage to go on from, if any."""
    path = stage / "weights.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def _train_encoders(options: argparse.Namespace) -> None:
    stage = options.run / "encoders"
    encoders.train(stage, _settings(options), torch.device(options.device), weights=_started(stage))
    save_whole(stage / "weights.pt", base.averaged(stage))


def _train_dit(options: argparse.Namespace) -> None:
    workers.run(_dit_worker, options, options.workers)


def _dit_worker(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    text, clip = encoders.load(base.stage_weights(options.run / "encoders"))
    model = vae.build(base.stage_config(options.run / "vae"))
    model.load_state_dict(base.stage_weights(options.run / "vae"))
    encoder = latents.Encoder(model.eval().requires_grad_(False), clip, device, _source(options))
    stage = options.run / "dit"
    dit.train(
        stage,
        _settings(options),
        encoder,
        text,
        device,
        pool_size=options.pool,
        half=options.half,
        weights=_started(stage),
        config=base.stage_config(stage),
    )


def _nano(options: argparse.Namespace) -> None:
    on_cpus = ["--workers", str(options.workers), *(["--half"] if options.half else [])]
    for stage, more in (("vae", []), ("encoders", []), ("dit", on_cpus)):
        defaults = _parser().parse_args([stage, "--run", str(options.run), *more])
        defaults.action(defaults)
    _export(options)


def _export(options: argparse.Namespace) -> None:
    pair = base.stage_weights(options.run / "encoders")
    parts = [
        {name.removeprefix(f"{part}."): value for name, value in pair.items() if name.startswith(f"{part}.")}
        for part in ("text", "image")
    ]
    folder.write(
        options.checkpoint,
        base.transformer_weights(options.run),
        base.stage_weights(options.run / "vae"),
        *parts,
        base.stage_config(options.run / "dit"),
        base.stage_config(options.run / "vae"),
    )


def _unpack(options: argparse.Namespace) -> None:
    folder.unpack(options.checkpoint, options.run)


def _prepare(options: argparse.Namespace) -> None:
    videos.prepare(options.videos, options.target, options.side, options.fps)


def _train_lora(options: argparse.Namespace) -> None:
    checkpoint = base.read_base(options.checkpoint)
    source = _source(options, checkpoint.side) or rings.Rings()
    stage = options.run / f"lora_{options.out.stem}"
    lora.train(
        stage,
        _settings(options),
        checkpoint,
        source,
        torch.device(options.device),
        rank=options.rank,
        alpha=options.alpha,
        pool_size=options.pool,
    )
    lora.export(stage, options.out, checkpoint.config, getattr(torch, options.dtype))
