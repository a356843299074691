"""Floating-point operations that a case asks for, counted from shapes.

The networks run on the meta device, where nothing is computed and torch's counter sees every product, whatever kernels
the CPU or GPU would take for them. What is between them (slices, tiles, sampler) runs for real on stand-in
numbers, since its decisions depend on contents: slices that are equal are encoded once. So the count is that of the
work which the result needs, the same for both sides, and not of what either happens to compute.
"""

from itertools import count
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from . import ours
from .cases import Case


def counted_flops(case: Case) -> int:
    """Return the floating-point operations of one run of the case; a multiplication and an addition are two."""
    transformer = ours.make_transformer(case, "meta") if case.stage in ("step", "pipeline") else None
    vae = ours.make_vae(case, "meta") if case.stage != "step" else None
    networks = [] if transformer is None else [transformer]
    if vae is not None:
        networks += vae.children()
        vae.place["device"] = torch.device("cpu")
    counter = CallCounter()
    for network in networks:
        counter.watch(network)
    stage = ours.stage_of(case, torch.device("cpu"), transformer, vae)
    with torch.inference_mode():
        stage.run()
    return counter.flops


class CallCounter:
    """Adds up the operations of the calls of networks on the meta device, each kind of call counted once.

    Attributes
    ----------
    flops : int
        The sum so far.
    """

    def __init__(self) -> None:
        self.flops = 0
        self._numbers = count(1)

    def watch(self, network: torch.nn.Module) -> None:
        """Let a network take tensors from anywhere, and return stand-ins on the CPU for what it would compute."""
        forward = network.forward
        known: dict[str, tuple[int, Any]] = {}

        def counted(*args: Any, **kwargs: Any) -> Any:
            moved = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
            # Shows the shapes and dtypes of tensors that have no contents, and the values of all else.
            call = repr(moved)
            if call not in known:
                with FlopCounterMode(display=False) as counter:
                    output = forward(*moved[0], **moved[1])
                known[call] = counter.get_total_flops(), output
            flops, output = known[call]
            self.flops += flops
            return tree_map_only(torch.Tensor, self._stand_in, output)

        network.forward = counted

    def _stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        # Different each time and within a picture's range, so that results are not taken for equal ones.
        return torch.full(tensor.shape, 1 / next(self._numbers), dtype=tensor.dtype)
