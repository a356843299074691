"""Tokenizers from strangers: sentencepiece models and tokenizer.json files."""

import io
import json

from strange_mutants import ANY, REFUSED, SAME, Mutant, kind

SPIECE, JSON = "tokenizer/spiece.model", "tokenizer/tokenizer.json"


@kind
def spiece_cut(good, rng):
    content = good.read(SPIECE)
    return Mutant("folder", {SPIECE: content[: rng.randrange(1, len(content))]}, ANY)


@kind
def spiece_changed(good, rng):
    content = bytearray(good.read(SPIECE))
    # Most of the file is one table; its pieces and settings are at both ends.
    for _ in range(rng.choice([1, 5, 100])):
        position = rng.choice([rng.randrange(len(content)), rng.randrange(4000), -1 - rng.randrange(1000)])
        content[position] = rng.randrange(256)
    return Mutant("folder", {SPIECE: bytes(content)}, ANY)


@kind
def spiece_table_changed(good, rng):
    content = bytearray(good.read(SPIECE))
    start = rng.randrange(len(content) - 2000)
    content[start : start + 2000] = rng.randbytes(2000)
    return Mutant("folder", {SPIECE: bytes(content)}, ANY)


@kind
def spiece_that_is_none(good, rng):
    content = rng.choice(
        [b"", b"\0", b"hello", rng.randbytes(5000), b"\n" + b"\xff" * 9, b"<html>", b"\x0a" * 9000]
    )
    return Mutant("folder", {SPIECE: content}, REFUSED, repr(content[:20]), ("tokenizer",))


@kind
def spiece_of_another_model(good, rng):
    """Its end token, its kind or the number of its pieces is not T5's."""
    what = rng.choice(["eos", "no eos", "char", "many pieces"])
    return Mutant("folder", {SPIECE: _trained(what)}, REFUSED, what, ("tokenizer",))


def _trained(what):
    import sentencepiece

    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    options = {"model_type": "unigram", "vocab_size": 60, "hard_vocab_limit": False, **ids}
    sentences = [f"word{number} and another{number}" for number in range(300)]
    if what == "eos":
        options |= {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}
    elif what == "no eos":
        options |= {"eos_id": -1}
    elif what == "char":
        options |= {"model_type": "char", "eos_id": 5, "unk_id": 1}
    else:
        options |= {"model_type": "char", "vocab_size": 33_000, "character_coverage": 1.0}
        sentences = [chr(0x4E00 + k) for k in range(20_000)] + [chr(0xAC00 + k) for k in range(11_000)]
        sentences += [chr(0x20000 + k) for k in range(2_000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, num_threads=1, minloglevel=2, **options
    )
    return model.getvalue()


_converted = {}


def _good_json(good):
    """Return the good tokenizer as a tokenizer.json."""
    if good.folder not in _converted:
        _converted[good.folder] = _convert(good.read(SPIECE))
    return json.loads(_converted[good.folder])


def _convert(spiece):
    import sentencepiece
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    names = [(pieces.id_to_piece(k), pieces.get_score(k)) for k in range(pieces.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(names, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer.to_str()


def _mutant(values, expect, note="", more=None):
    content = values if isinstance(values, bytes) else json.dumps(values).encode()
    mention = ("tokenizer",) if expect == REFUSED else ()
    return Mutant("folder", {SPIECE: None, JSON: content, **(more or {})}, expect, note, mention)


@kind
def tokenizer_json_that_is_good(good, rng):
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    values = _good_json(good) | rng.choice([{}, {"padding": padding}, {"truncation": truncation}])
    code = b"open('it_ran', 'w').close()\n"
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    more = {
        "tokenizer/evil.py": code,
        "tokenizer/tokenizer_config.json": json.dumps(settings).encode(),
        "tokenizer/added_tokens.json": b'{"dog": 99999}',
    }
    return _mutant(values, SAME, more=more)


@kind
def tokenizer_json_that_is_none(good, rng):
    content = rng.choice(
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"{}",
            b"\xff\xff",
            b"[" * 500_000,
            b'{"a":' * 500_000,
            b'{"version": "1.0", "model": null}',
            b'{"version": "1.0", "model": {"type": "Unigram", "vocab": []}}',
            rng.randbytes(3000),
        ]
    )
    return _mutant(content, REFUSED, repr(content[:30]))


@kind
def tokenizer_json_changed(good, rng):
    content = bytearray(json.dumps(_good_json(good)).encode())
    for _ in range(rng.choice([1, 10, 200])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return _mutant(bytes(content), ANY)


@kind
def tokenizer_json_of_another_model(good, rng):
    values = _good_json(good)
    vocabulary = values["model"]["vocab"]
    words = {word: index for index, (word, _) in enumerate(vocabulary)}
    part, value = rng.choice(
        [
            ("model", {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}),
            ("model", {"type": "BPE", "vocab": words, "merges": [], "unk_token": "<unk>"}),
            ("model", {"type": "WordPiece", "vocab": words, "unk_token": "<unk>"}),
            ("model", values["model"] | {"vocab": vocabulary + [[f"w{k}", -9.0] for k in range(40_000)]}),
            ("model", values["model"] | {"vocab": vocabulary[:2]}),
            ("model", values["model"] | {"unk_id": 10**9}),
            ("model", values["model"] | {"vocab": [[3, "x"]]}),
            ("post_processor", None),
            ("post_processor", {"type": "Evil"}),
            ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w" + "A" * 50}),
            ("pre_tokenizer", {"type": "Evil"}),
            ("added_tokens", [_added("<huge>", 2**32 - 1)]),
            ("added_tokens", [_added("<huge>", -1)]),
            ("added_tokens", {}),
        ]
    )
    return _mutant({**values, part: value}, REFUSED, f"{part}: {str(value)[:80]}")


def _added(content, token_id):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": True, **flags}


@kind
def tokenizer_table_lies(good, rng):
    """A table says to be far longer than it is, for which the library would ask for memory and end the program."""
    table = rng.choice(["/////w", "8P///w", "AAAA/w"]) + "A" * rng.choice([46, 50, 54])
    tables = {"type": "Precompiled", "precompiled_charsmap": table}
    inside = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, tables]}
    return _mutant({**_good_json(good), "normalizer": rng.choice([tables, inside])}, REFUSED, table[:8])


@kind
def tokenizer_json_with_odd_values(good, rng):
    values = _good_json(good)
    part = rng.choice(sorted(values))
    value = rng.choice([None, 3, "x", [], {}, True, [[]], {"type": None}, {"type": "Sequence"}, -1])
    return _mutant({**values, part: value}, ANY, f"{part}={value!r}")


@kind
def tokenizer_with_many_tokens(good, rng):
    values = _good_json(good)
    values["added_tokens"] = [_added(f"<t{k}>", 1000 + k) for k in range(50_000)]
    return _mutant(values, REFUSED)
