"""Previews that move: while a clip is sampled, its latent frames play in the node, whichever sampler node that is."""

import logging
import threading
import time
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

from .internals import (
    get_executing_context,
    get_previewer,
    get_progress_state,
    is_host_previewer,
    launch_option,
    preview_handlers,
)

# A latent frame stands for 4 frames of a video of 24 a second.
FRAMES_PER_SECOND = 6
_KEY = "easyanimate_moving_preview"
# Place of the callback among the arguments of the host's outer sampling function.
_CALLBACK = 5


def play_previews(patcher: Any) -> None:
    """Have every sampler node play the clip that it samples on this MODEL and on copies of it.

    Nothing is shown where previews are off. A single frame is left to the sampler's own still, and everything to a pack
    that makes the previews in ComfyUI's place.

    Parameters
    ----------
    patcher : comfy.model_patcher.ModelPatcher
        The MODEL, just built.
    """
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, _sample)


def _sample(executor: Any, *arguments: Any, **options: Any) -> Any:
    guider = executor.class_obj
    patcher = guider.model_patcher
    previewer = get_previewer(patcher.load_device, patcher.model.latent_format)
    context = get_executing_context()
    callback = arguments[_CALLBACK] if len(arguments) > _CALLBACK else options.get("callback")
    if not is_host_previewer(previewer) or context is None or callback is None or arguments[0].shape[2] == 1:
        return executor(*arguments, **options)
    with ClipPlayer(context.node_id) as player:

        def show(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
            callback(step, x0, x, total)
            try:
                stills = [
                    previewer.decode_latent_to_preview_image("JPEG", x0[:1, :, frame, None])
                    for frame in range(x0.shape[2])
                ]
                # None where a pack that shows the run in a node of its own has stopped the others.
                frames = [still[1] for still in stills if still is not None]
            except comfy.model_management.InterruptProcessingException:
                raise
            except Exception as error:
                # A picture by the way is not worth a clip. Text, since a log may keep the error, and that its tensors.
                logging.warning("The preview does not play: %s", str(error))
                frames = []
            player.show(frames)

        if len(arguments) > _CALLBACK:
            arguments = (*arguments[:_CALLBACK], show, *arguments[_CALLBACK + 1 :])
        else:
            options["callback"] = show
        return executor(*arguments, **options)


class ClipPlayer:
    """Shows the frames of the latest step in a node, one after the other, until it is left.

    Parameters
    ----------
    node_id : str
        The running node.
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.registry = get_progress_state()
        self._frames: list[Any] = []
        self._started = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play, name="EasyAnimateV3 preview", daemon=True)

    def __enter__(self) -> "ClipPlayer":
        """Start to play."""
        try:
            self._thread.start()
        except RuntimeError as error:
            logging.warning("The preview does not play: %s", error)
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop; nothing is shown after it."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def show(self, frames: list[Any]) -> None:
        """Play these pictures from now on, from the first if the ones before were seen to their end."""
        now = time.monotonic()
        if now - self._started >= len(self._frames) / FRAMES_PER_SECOND:
            self._started = now
        self._frames = frames

    def _play(self) -> None:
        shown = None
        while not self._ended.wait(1 / FRAMES_PER_SECOND):
            frames = self._frames
            if not frames:
                continue
            frame = frames[int((time.monotonic() - self._started) * FRAMES_PER_SECOND) % len(frames)]
            if frame is not shown:
                self._send(frame)
                shown = frame

    def _send(self, frame: Any) -> None:
        state = self.registry.nodes.get(self.node_id)
        if state is None:
            return
        image = ("JPEG", frame, launch_option("preview_size"))
        # Not through the progress bar, which would raise a cancel here, where no one would see it.
        for handler in preview_handlers():
            handler.update_handler(
                self.node_id, state["value"], state["max"], state, self.registry.prompt_id, image
            )
