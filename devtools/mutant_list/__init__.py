"""Small changes that break the mathematics of ``easyanimate_core``, each with tests that have to fail with it."""

from .checkpoint import CHECKPOINT
from .conditioning import CONDITIONING
from .continuation import CONTINUATION
from .host import HOST
from .mutant import Mutant
from .sampling import SAMPLING
from .text import TEXT
from .transformer import TRANSFORMER
from .vae import VAE
from .video import VIDEO

# By the headings of docs/mutants.md.
AREAS: dict[str, list[Mutant]] = {
    "Transformer": TRANSFORMER,
    "Slice VAE": VAE,
    "Conditioning": CONDITIONING,
    "Noise schedule and samplers": SAMPLING,
    "Longer videos": CONTINUATION,
    "Prompts": TEXT,
    "LoRA and other files": CHECKPOINT,
    "In ComfyUI": HOST,
    "Video files": VIDEO,
}
MUTANTS = [mutant for mutants in AREAS.values() for mutant in mutants]

__all__ = ["AREAS", "MUTANTS", "Mutant"]
