"""Settings that the host lets through and no node can use: ComfyUI 0.3 checks no choices, none refuses NaN.

Nor does it check what comes over a link from a node whose output may be anything.
"""

import inspect
import math
from functools import wraps
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io

from ..easyanimate_core.values import shown


def check_settings(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Have a node class refuse settings outside of its schema in one sentence, and return it."""
    run = node.execute.__func__
    schema = {declared.id: declared for declared in node.define_schema().inputs}
    # Names of files: the node itself tells better what is missing.
    named = inspect.signature(node.validate_inputs).parameters if "validate_inputs" in vars(node) else {}

    @wraps(run)
    def execute(cls: type[io.ComfyNode], *arguments: Any, **inputs: Any) -> io.NodeOutput:
        for name, value in inputs.items():
            inputs[name] = _checked(name, value, schema.get(name), name in named)
        return run(cls, *arguments, **inputs)

    node.execute = classmethod(execute)
    return node


def _checked(name: str, value: Any, declared: io.Input | None, any_text: bool) -> Any:
    if isinstance(declared, io.Combo.Input):
        if any_text and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, which is no name: choose one of the list.")
        if not any_text and value not in declared.options:
            raise ValueError(f"{name} is {value!r}: choose one of {', '.join(declared.options)}.")
    if isinstance(declared, io.Int.Input):
        if not isinstance(value, Integral) or not declared.min <= value <= declared.max:
            raise ValueError(
                f"{name} is {shown(value)}: give a whole number from {declared.min} to {declared.max}."
            )
        return int(value)
    if isinstance(declared, io.Float.Input):
        if not _is_finite(value) or not declared.min <= value <= declared.max:
            raise ValueError(
                f"{name} is {shown(value)}: give a number from {declared.min:g} to {declared.max:g}."
            )
        return float(value)
    return value


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:
        # A whole number above all decimals.
        return False
