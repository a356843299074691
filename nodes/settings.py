"""Settings that the host lets through and no node can use: ComfyUI 0.3 checks no choices, and none refuses NaN."""

import inspect
import math
from functools import wraps
from typing import Any

from comfy_api.latest import io


def check_settings(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Have a node class refuse settings outside of its schema in one sentence, and return it."""
    run = node.execute.__func__
    schema = {declared.id: declared for declared in node.define_schema().inputs}
    # Names of files: the node itself tells better what is missing.
    named = inspect.signature(node.validate_inputs).parameters if "validate_inputs" in vars(node) else {}

    @wraps(run)
    def execute(cls: type[io.ComfyNode], *arguments: Any, **inputs: Any) -> io.NodeOutput:
        for name, value in inputs.items():
            _check(name, value, schema.get(name), name in named)
        return run(cls, *arguments, **inputs)

    node.execute = classmethod(execute)
    return node


def _check(name: str, value: Any, declared: io.Input | None, any_text: bool) -> None:
    if isinstance(declared, io.Combo.Input):
        if any_text and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, which is no name: choose one of the list.")
        if not any_text and value not in declared.options:
            raise ValueError(f"{name} is {value!r}: choose one of {', '.join(declared.options)}.")
    if isinstance(declared, io.Float.Input) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: give a number from {declared.min:g} to {declared.max:g}.")
