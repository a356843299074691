"""How much memory a forward of the transformer takes, and how its work is cut where there is less.

Everything here is counted in streams: the tokens of all rows, frames and positions, ``dim`` values each.
"""

from dataclasses import dataclass

from .config import TransformerConfig

# U-ViT skips join the outputs of the first blocks to the inputs of the last ones. The release counts both from the
# front whatever the depth, so that of its 28 blocks the middle two have none.
SKIPS = 13
FIRST_RECEIVER = 15

# Enough to keep a GPU busy with the linear layers.
CHUNK_TOKENS = 8192

# Streams that live at once beside the skips, at the peak: the GEGLU of the motion module when all tokens are worked
# on together, the keys and values of the global attention in chunks. tests/test_memory.py counts them.
WHOLE_STREAMS = 15
CHUNKED_STREAMS = 5.5
# The same of a chunk's tokens.
CHUNK_STREAMS = 14


@dataclass(frozen=True)
class MemoryPlan:
    """How the work of a forward is cut; the result is the same.

    Attributes
    ----------
    chunk_tokens : int or None
        About how many tokens a block works on at a time; all of them if None.
    park_skips : bool
        Whether the U-ViT skips wait in main memory.
    bytes : int
        Peak of the activations on the device.
    """

    chunk_tokens: int | None
    park_skips: bool
    bytes: int


def memory_plans(config: TransformerConfig, tokens: int, value_bytes: int) -> list[MemoryPlan]:
    """Return all plans for ``tokens`` tokens in all rows, the fastest first, the smallest last.

    Parameters
    ----------
    config : TransformerConfig
        Dimensions of the model.
    tokens : int
        Rows of the batch x latent frames x positions.
    value_bytes : int
        Bytes of an activation.
    """
    stream = tokens * config.dim * value_bytes
    skips = SKIPS * stream if config.enable_uvit and config.num_layers > FIRST_RECEIVER else 0
    whole = MemoryPlan(None, False, skips + WHOLE_STREAMS * stream)
    if tokens <= CHUNK_TOKENS:
        return [whole]
    chunked = int(CHUNKED_STREAMS * stream) + CHUNK_STREAMS * CHUNK_TOKENS * config.dim * value_bytes
    plans = [whole, MemoryPlan(CHUNK_TOKENS, False, skips + chunked)]
    return [*plans, MemoryPlan(CHUNK_TOKENS, True, chunked)] if skips else plans


def choose_plan(plans: list[MemoryPlan], budget: float | None) -> MemoryPlan:
    """Return the fastest plan of at most ``budget`` bytes, or the smallest one; the fastest if None."""
    if budget is None:
        return plans[0]
    return next((plan for plan in plans if plan.bytes <= budget), plans[-1])
