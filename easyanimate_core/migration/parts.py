"""Groups of our nodes that the samplers of both packs need."""

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node, Output
from .models import Models
from .work import Work, output

DEFAULT_BASE = 512
SIDE_MULTIPLE = 16
# PNDM needs its Runge-Kutta start.
_LEAST_STEPS = {"PNDM": 4}


def add_side(work: Work, clip: Node, old: Node, name: str) -> None:
    """Carry width or height over, as a multiple of 16."""
    work.carry(clip, name, old, name, int)
    given = clip.values.get(name, 0)
    if given % SIDE_MULTIPLE:
        clip.values[name] = max(round(given / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE
        work.report.note(f"{old}: {name} {given} became {clip.values[name]}, a multiple of {SIDE_MULTIPLE}.")


def add_sampler(work: Work, old: Node, models: Models, clip: Node, latent: Output) -> Node:
    """Return our sampler, with all values that the old one has."""
    sampler = work.add(
        old,
        ours.SAMPLER,
        main=True,
        model=models.model,
        positive=output(clip, 0),
        negative=output(clip, 1),
        latent_image=latent,
        **{theirs.CONTROL: old.values.get(theirs.CONTROL)},
    )
    for name, kind in (("seed", int), ("steps", int), ("cfg", float)):
        work.carry(sampler, name, old, name, kind)
    work.carry(sampler, "sampler_name", old, "scheduler", theirs.SAMPLER_NAMES.__getitem__, linkable=False)
    work.carry(sampler, "denoise", old, "denoise_strength", lambda value: round(float(value), 4))
    _count_steps(work, old, sampler)
    return sampler


def _count_steps(work: Work, old: Node, sampler: Node) -> None:
    """Give as many steps as theirs really ran: they skip the first ones of a run that keeps part of a video."""
    if not work.has(old, "denoise_strength"):
        return
    share, steps = work.value(old, "denoise_strength"), sampler.values.get("steps")
    if share is not None and not 0 < float(share) < 1:
        return
    if share is None or steps is None:
        work.report.note(
            f"{old}: steps are not scaled, since a link sets them or denoise_strength. {sampler} runs all its steps, "
            "where only the share denoise_strength of them ran before."
        )
        return
    least = _LEAST_STEPS.get(sampler.values.get("sampler_name"), 1)
    sampler.values["steps"] = max(int(steps * float(share)), least)
    if sampler.values["steps"] != steps:
        work.report.note(
            f"{old}: steps {steps} became {sampler.values['steps']}, since {sampler} runs all its steps at denoise "
            f"{sampler.values['denoise']:g}."
        )
