"""When the CLIP image tokens take part: only from half of the model calls on, in the release."""

from typing import Any

from ..sampling import NoiseSchedule, clip_tokens_active
from ..sampling.schedule import TRAINING_STEPS

CALL_OPTION = "easyanimate_call"
DEFAULT_APPLY_RATIO = 0.5

# Stands for the packed ratio of a conditioning that has no CLIP embedding.
NO_CLIP = -1

_SCHEDULE = NoiseSchedule()


def clip_active(ratio: float, transformer_options: dict[str, Any]) -> bool:
    """Tell whether the CLIP tokens of a conditioning are used in the model call under way.

    EasyAnimateV3's own sampler counts its calls exactly, as the release does. Under a stock sampler the place in
    the whole run is read from the noise level, so that a run split over several KSamplerAdvanced stays one run.

    Parameters
    ----------
    ratio : float
        Share of the calls, at the end of the run, that use the CLIP tokens (1 = always, 0 = never).
    transformer_options : dict
        ComfyUI's options of this call.
    """
    call = transformer_options.get(CALL_OPTION)
    if call is None:
        call = _call_from_sigmas(transformer_options)
    return call is None or clip_tokens_active(*call, ratio)


def _call_from_sigmas(options: dict[str, Any]) -> tuple[int, int] | None:
    """Return (index, count) of the model call under way, or None where the host gives no schedule."""
    sigmas, current = options.get("sample_sigmas"), options.get("sigmas")
    if sigmas is None or current is None or len(sigmas) < 2:
        return None
    sigmas, current = sigmas.detach().cpu().float(), current.detach().cpu().float().max()
    steps, last = len(sigmas) - 1, TRAINING_STEPS - 1
    to_the_end = bool(sigmas[-1] <= _SCHEDULE.sigma(0.0))
    timesteps = _SCHEDULE.timestep(sigmas[:-1] if to_the_end else sigmas)
    highest, lowest = float(timesteps[0]), float(timesteps[-1])
    spacing = (highest - lowest) / max(len(timesteps) - 1, 1)
    # The schedules that end at timestep 1 (DDIM, PNDM) begin about one spacing below the top, all others at it.
    from_the_top = last - highest <= (1.5 * spacing if abs(lowest - 1) < 0.5 else 0.5)
    if from_the_top and to_the_end:
        return int((sigmas[:-1] > current * 1.0001).sum()), steps
    # Part of a longer run with evenly spaced timesteps: extend the spacing over the whole range.
    timestep = float(_SCHEDULE.timestep(current.reshape(1)))
    if spacing == 0:
        return round(last - timestep), last
    bottom = lowest if to_the_end else 0.0
    return round((last - timestep) / spacing), round((last - bottom) / spacing) + 1


def pack_ratio(ratio: float) -> int:
    """Encode the ratio as an integer, which ComfyUI does not cast to the model's half precision."""
    return round(ratio * 1_000_000)


def unpack_ratio(packed: int) -> float:
    """Undo :func:`pack_ratio`."""
    return packed / 1_000_000
