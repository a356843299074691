"""T5 tokenizers from the files of a checkpoint folder, with nothing of the folder run or looked up elsewhere."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..checkpoint import CheckpointError, read_json_object
from .internals import SPieceTokenizer

Result = TypeVar("Result")
END_TOKEN = 1
# Twice T5's tokenizer.json, five times its spiece.model.
_MAX_BYTES = 4 * 2**20
_ADVICE = "take tokenizer/ of the release"


def read_tokenizer(path: Path, vocabulary: int) -> Any:
    """Read ``spiece.model`` or ``tokenizer.json``.

    The other files of the folder count for nothing, and neither does code that they name.

    Parameters
    ----------
    path : Path
        The file; ``.json`` is the form of the tokenizers library, anything else sentencepiece's.
    vocabulary : int
        Rows of the text encoder's embedding.

    Returns
    -------
    object
        Called with a text it returns ``{"input_ids": [...]}`` with the end token last; ``get_vocab()`` maps tokens to
        numbers.

    Raises
    ------
    CheckpointError
        If the file is damaged, or its tokens are not those of a T5 encoder of this vocabulary.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes, far more than any tokenizer of T5: {_ADVICE}.")
    tokenizer = _guarded(path, lambda: (_Json if path.suffix == ".json" else _sentencepiece)(path))
    empty = _guarded(path, lambda: tokenizer("")["input_ids"])
    numbers = _guarded(path, tokenizer.get_vocab).values()
    if empty != [END_TOKEN]:
        raise CheckpointError(f"{path} does not end texts with token {END_TOKEN}, as T5 does: {_ADVICE}.")
    if not numbers or not 0 <= min(numbers) <= max(numbers) < vocabulary:
        raise CheckpointError(
            f"{path} has tokens that are not among the {vocabulary} of text_encoder/: {_ADVICE}."
        )
    return tokenizer


def _guarded(path: Path, run: Callable[[], Result]) -> Result:
    """Return ``run()``, with one error in place of the libraries' own, of which one passes by Exception."""
    try:
        return run()
    except (CheckpointError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise CheckpointError(
            f"{path} is damaged or of another kind than T5's tokenizer: {_ADVICE}."
        ) from error


def _sentencepiece(path: Path) -> Any:
    return SPieceTokenizer(path.read_bytes(), add_bos=False, add_eos=True)


class _Json:
    """A ``tokenizer.json`` behind the few calls that the host makes."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._path = path
        values = read_json_object(path, _MAX_BYTES)
        if any(not _is_whole_table(table) for table in _tables(values)):
            raise CheckpointError(f"{path} has a damaged table of characters: {_ADVICE}.")
        self._tokenizer = Tokenizer.from_str(json.dumps(values))
        # Prompts are cut later, and the end token must stay.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": _guarded(self._path, lambda: self._tokenizer.encode(text).ids)}

    def get_vocab(self) -> dict[str, int]:
        return self._tokenizer.get_vocab()


def _tables(value: Any) -> Iterator[Any]:
    """Yield all tables of characters in a tokenizer.json."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "precompiled_charsmap":
                yield inner
            else:
                yield from _tables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _tables(inner)


def _is_whole_table(table: Any) -> bool:
    """Tell whether a table is as long as it says: the library ends the whole program where it asks for too much memory."""
    try:
        content = base64.b64decode(table, validate=True)
    except (ValueError, TypeError):
        return False
    size = int.from_bytes(content[:4], "little")
    return len(content) >= 4 and size % 4 == 0 and 0 < size <= len(content) - 4
