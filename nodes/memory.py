"""Tell the user what to lower where a node runs out of memory outside the models, which say it themselves."""

from functools import partial, wraps
from typing import Any

from comfy_api.latest import io

from ..easyanimate_core.host import out_of_memory


def say_what_to_lower(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Have a node class say in one sentence that memory ran out, and return it."""
    run = node.execute.__func__
    work = f"run {node.define_schema().display_name}"
    advice = "make the images or the video smaller or shorter"

    @wraps(run)
    def execute(cls: type[io.ComfyNode], *arguments: Any, **inputs: Any) -> io.NodeOutput:
        return out_of_memory.say_what_to_lower(partial(run, cls, *arguments, **inputs), work, advice)

    node.execute = classmethod(execute)
    return node
