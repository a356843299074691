"""The progress bar and preview of sampling, over one clip or over all segments of a longer video."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from .internals import get_executing_context, get_previewer, get_progress_state, preview_handlers

_PREVIEW_FORMAT = "JPEG"
# Other packs' loops expand into nodes of ours too, but these are no segments of one video.
_SEGMENTED_NODE = "EasyAnimateV3ExtendVideo"
# The UI forgets a preview 0.4 s after it was told to.
_DROP_SECONDS = 0.6
_sampling_only: ContextVar[bool] = ContextVar("sampling_only", default=False)


@contextmanager
def sampling_progress_only() -> Iterator[None]:
    """Keep the node's progress bar for sampling, so that it runs once over all segments."""
    token = _sampling_only.set(True)
    try:
        yield
    finally:
        _sampling_only.reset(token)


def slice_callback(steps: int) -> Callable[[], None]:
    """Return a callback for each slice that the VAE finished; it raises where the user cancelled.

    It moves the node's progress bar from 0 to ``steps``, unless the bar stands for the sampling of several segments.
    """
    bar = None if _sampling_only.get() or place_in_expansion()[1] > 1 else comfy.utils.ProgressBar(steps)

    def on_slice() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if bar is not None:
            bar.update(1)

    return on_slice


def sampling_callback(
    model: Any, steps: int, part: int = 0, parts: int = 1
) -> Callable[[int, torch.Tensor, torch.Tensor, int], None]:
    """Return a sampler's callback that moves the node's progress bar and shows a preview of each step.

    Parameters
    ----------
    model : comfy.model_patcher.ModelPatcher
        The MODEL that is sampled.
    steps : int
        Steps of this run.
    part, parts : int
        The run's place among runs of equal length whose progress is shown together, from 0.
    """
    previewer = get_previewer(model.load_device, model.model.latent_format)
    bar = comfy.utils.ProgressBar(steps * parts)

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
        preview = _picture(previewer, x0)
        bar.update_absolute(part * total_steps + step + 1, total_steps * parts, preview)

    return callback


def _picture(previewer: Any, x0: torch.Tensor) -> Any:
    """Return a step's preview, or None where there is none: a picture by the way is not worth a clip."""
    if previewer is None:
        return None
    try:
        return previewer.decode_latent_to_preview_image(_PREVIEW_FORMAT, x0)
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        # Text, since a log may keep the error, and that its tensors.
        logging.warning("There is no preview of this step: %s", str(error))
        return None


def place_in_expansion() -> tuple[int, int]:
    """Return the index and number of the running node among those of its type that an Extend Video node placed.

    They count in the order of their ids; ``(0, 1)`` for a node that stands for itself.
    """
    context = get_executing_context()
    dynprompt = get_progress_state().dynprompt
    parent = None if context is None else dynprompt.get_parent_node_id(context.node_id)
    if parent is None or dynprompt.get_node(parent)["class_type"] != _SEGMENTED_NODE:
        return 0, 1
    kind = dynprompt.get_node(context.node_id)["class_type"]
    siblings = sorted(
        other
        for other in dynprompt.all_node_ids()
        if dynprompt.get_parent_node_id(other) == parent and dynprompt.get_node(other)["class_type"] == kind
    )
    return siblings.index(context.node_id), len(siblings)


def shown_node_id(node_id: str) -> str:
    """Return the id of the node that the user sees for a running node: itself, or the one that placed it."""
    return get_progress_state().dynprompt.get_display_node_id(node_id)


def drop_preview() -> float:
    """Have the UI forget the running node's last preview, which it would go on showing in place of its output.

    Returns
    -------
    float
        The time of ``time.monotonic`` before which the node should not show its output.
    """
    context = get_executing_context()
    registry = get_progress_state()
    state = None if context is None else registry.nodes.pop(context.node_id, None)
    if state is None:
        return time.monotonic()
    # A node that was not known and is running now is a new one to the UI, which drops its pictures then.
    for handler in preview_handlers():
        handler.finish_handler(context.node_id, state, registry.prompt_id)
    registry.start_progress(context.node_id)
    return time.monotonic() + _DROP_SECONDS
