"""Prompt text: the cleaning that EasyAnimateV3's prompts go through before T5."""

from .characters import non_latin_letters
from .cleaning import clean_prompt, plain_prompt, removed_non_latin

__all__ = ["clean_prompt", "non_latin_letters", "plain_prompt", "removed_non_latin"]
