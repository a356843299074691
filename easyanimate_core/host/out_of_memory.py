"""What is done where memory runs out: less at a time, and at last one sentence on what to lower."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

from ..out_of_memory import GPU_MEMORY, MAIN_MEMORY, NotEnoughMemoryError, exhausted_memory
from ..transformer.memory import MemoryPlan, choose_plan
from ..vae import SPACE_FACTOR, pixel_frames

Result = TypeVar("Result")
_KEY = "easyanimate_out_of_memory"


def say_what_to_lower(run: Callable[[], Result], work: str | Callable[[], str], advice: str) -> Result:
    """Return ``run()``.

    Parameters
    ----------
    run : callable
        What may need too much memory.
    work : str or callable
        What it does, such as ``"encode the prompt"``, or what returns that.
    advice : str
        What the user can do about it.

    Raises
    ------
    NotEnoughMemoryError
        Where memory ran out, in one sentence; models have left the GPU then, as after the host's own error.
    """
    memory = None
    try:
        return run()
    except NotEnoughMemoryError as error:
        sentence = str(error)
    except Exception as error:
        memory = exhausted_memory(error)
        if memory is None:
            raise
        logging.warning("Memory ran out: %s", (str(error).splitlines() or [type(error).__name__])[0])
        work = work() if callable(work) else work
        elsewhere = ", or close other programs" if memory == MAIN_MEMORY else ""
        sentence = f"there is not enough {memory} to {work}: {advice}{elsewhere}."
    # Outside the handlers: their tracebacks hold the tensors of the attempt, and the host keeps the one of what is
    # raised until its next garbage collection.
    if memory == GPU_MEMORY:
        comfy.model_management.unload_all_models()
    raise NotEnoughMemoryError(sentence)


@dataclass
class _Run:
    """A sampling run, and how many memory plans did not fit in it."""

    failed: int = 0


@dataclass
class _Attempt:
    """A forward: the bytes that it may take at most, None for any number, and what :func:`activation_budget` said."""

    limit: int | None
    budget: float | None = None


_run: ContextVar[_Run | None] = ContextVar("run", default=None)
_attempt: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)


def activation_budget(free: float | None) -> float | None:
    """Return the bytes that the transformer may take in the forward under way, or None for any number.

    Parameters
    ----------
    free : float or None
        Bytes that are free on its device; None where that is not counted.
    """
    attempt = _attempt.get()
    if attempt is None:
        return free
    attempt.budget = min((value for value in (attempt.limit, free) if value is not None), default=None)
    return attempt.budget


def run_smaller(run: Callable[[], Result], plans: list[MemoryPlan]) -> Result:
    """Return ``run()`` under the first of the transformer's memory plans that memory reaches for.

    What failed in a sampling run, and what is larger, is not tried again in it.

    Parameters
    ----------
    run : callable
        A forward that asks :func:`activation_budget`.
    plans : list of MemoryPlan
        The fastest first.
    """
    state = _run.get() or _Run()
    # With gradients on, there is one plan.
    last = 0 if torch.is_grad_enabled() else len(plans) - 1
    while state.failed < last:
        try:
            with _limited(plans, state.failed) as attempt:
                return run()
        except Exception as error:
            # Memory may run out before the forward asks for its budget, too.
            tried = max(state.failed, plans.index(choose_plan(plans, attempt.budget)))
            if exhausted_memory(error) is None or tried >= last:
                raise
        # Outside the handler, whose traceback still holds the tensors of the attempt.
        state.failed = tried + 1
        comfy.model_management.soft_empty_cache()
        logging.warning("The transformer ran out of memory; it begins this step again in smaller parts.")
    with _limited(plans, state.failed):
        return run()


@contextmanager
def _limited(plans: list[MemoryPlan], failed: int) -> Iterator[_Attempt]:
    attempt = _Attempt(plans[min(failed, len(plans) - 1)].bytes if failed else None)
    token = _attempt.set(attempt)
    try:
        yield attempt
    finally:
        _attempt.reset(token)


def explain_sampling(patcher: Any) -> None:
    """Have every sampler node say what to lower where it runs out of memory on this MODEL or on copies of it.

    Parameters
    ----------
    patcher : comfy.model_patcher.ModelPatcher
        The MODEL, just built.
    """
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, _sample)


def _sample(executor: Any, noise: torch.Tensor, *arguments: Any, **options: Any) -> Any:
    token = _run.set(_Run())
    try:
        return say_what_to_lower(
            lambda: executor(noise, *arguments, **options),
            lambda: f"sample {describe_latent(noise)}",
            "lower width, height, length or batch_size",
        )
    finally:
        _run.reset(token)


def describe_latent(latent: torch.Tensor) -> str:
    """Return the number, length and size of the clips ``[batch, 4, frames, height, width]`` in words."""
    batch, frames = len(latent), pixel_frames(latent.shape[2]) if latent.ndim == 5 else 1
    clip = describe_clip(frames, *(side * SPACE_FACTOR for side in latent.shape[-2:]))
    return clip if batch == 1 else f"{batch} clips of {clip}"


def describe_clip(frames: int, height: int, width: int) -> str:
    """Return a clip's length and size in words."""
    return f"{frames} {'frame' if frames == 1 else 'frames'} of {width}x{height} pixels"
