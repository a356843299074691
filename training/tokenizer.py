"""Nano's tokenizer: whole words of the captions, single characters for everything else."""

import string
from pathlib import Path

import torch

from .scenes import ACTIONS, BACKGROUNDS, SHAPES
from .whole import whole_file

PAD, END, UNKNOWN = 0, 1, 2
_SPACE = "\u2581"
_WORDS = sorted(
    {*" ".join((*ACTIONS, *BACKGROUNDS, *SHAPES)).split(), "a", "on", "striped", "background", "shape"}
)
_CHARACTERS = [chr(code) for code in range(33, 127) if chr(code) not in string.ascii_uppercase]
# sentencepiece's trainer must find one character by itself, beside the pieces that it is given.
_FOUND = "\u00e0"
_CONTROL = ("<pad>", "</s>", "<unk>")
PIECES = (*_CONTROL, *(_SPACE + word for word in _WORDS), _SPACE, *_CHARACTERS, _FOUND)
# Control tokens that somebody types are characters like any others.
_IDS = {piece: index for index, piece in enumerate(PIECES) if piece not in _CONTROL}
_LONGEST = max(map(len, PIECES))
# Where the release cuts prompts, the end token included.
_MOST = 120


def encode(text: str) -> list[int]:
    """Return the tokens of a prompt, the end token last: at each place the longest piece that fits."""
    spaced = "".join(_SPACE + word for word in text.lower().split())
    tokens, place = [], 0
    while place < len(spaced):
        for length in range(min(_LONGEST, len(spaced) - place), 0, -1):
            token = _IDS.get(spaced[place : place + length])
            if token is not None:
                break
        else:
            token, length = UNKNOWN, 1
        tokens.append(token)
        place += length
    return [*tokens, END]


def encode_batch(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens ``[texts, longest]``, 120 at most, and their mask, true where a token is."""
    rows = [[*encode(text)[:-1][: _MOST - 1], END] for text in texts]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, torch.arange(longest) < lengths[:, None]


def write_sentencepiece(path: Path) -> None:
    """Write ``spiece.model``, which cuts text as :func:`encode` does; needs the package sentencepiece."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([_FOUND]),
        model_writer=model,
        model_type="unigram",
        vocab_size=len(PIECES),
        hard_vocab_limit=False,
        user_defined_symbols=list(PIECES[len(_CONTROL) : -1]),
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=PAD,
        eos_id=END,
        unk_id=UNKNOWN,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    with whole_file(path) as partial:
        partial.write_bytes(model.getvalue())
