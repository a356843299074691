"""The tokenizer and the two encoders written out for training are those that the host and transformers run."""

import random

import pytest
import torch

from training import encoders
from training.loop import Settings, averaged
from training.scenes import sample_scene
from training.tokenizer import END, PIECES, UNKNOWN, encode, encode_batch, write_sentencepiece

TEXTS = [
    "a red circle moving right on a striped blue background",
    "",
    "Low quality, blurry apples; 5% RED!",
    "a reddish  crossing",
    "mail@example.com -- (what?)",
    "a red café circle",
    "</s> <pad> is typed",
]


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    write_sentencepiece(path)
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_cuts_as_sentencepiece_does(text, sentencepiece_file):
    import sentencepiece

    reader = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    assert [*reader.encode(text), END] == encode(text)


def test_model_has_a_row_for_each_piece(sentencepiece_file):
    import sentencepiece

    reader = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    assert [reader.id_to_piece(token) for token in range(reader.get_piece_size())] == list(PIECES)
    assert encoders.T5Encoder().shared.num_embeddings == encoders.text_config()["vocab_size"] == len(PIECES)


def test_every_word_of_a_caption_is_one_token():
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng, 16, held_out=rng.random() < 0.5)
        for caption in (scene.caption(), scene.partial_caption(rng)):
            tokens = encode(caption)
            assert len(tokens) == len(caption.split()) + 1
            assert UNKNOWN not in tokens


def test_other_characters_are_unknown():
    assert UNKNOWN in encode("红色 circle")
    assert max(encode("zebra")) < len(PIECES)


def test_t5_is_that_of_transformers():
    from transformers import T5Config, T5EncoderModel

    ours = encoders.T5Encoder()
    theirs = T5EncoderModel(T5Config(**encoders.text_config())).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert missing == ["encoder.embed_tokens.weight"]
    tokens, mask = encode_batch([TEXTS[0] + " and " + "z" * 40, TEXTS[3], ""])
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
        states = ours(tokens, mask)
    assert (states - expected)[mask].norm() / expected[mask].norm() < 1e-5


def test_clip_is_that_of_transformers():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    ours = encoders.ClipImageEncoder()
    theirs = CLIPVisionModelWithProjection(CLIPVisionConfig(**encoders.image_config())).eval()
    theirs.load_state_dict(ours.state_dict())
    images = (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoders.IMAGE_MEAN, encoders.IMAGE_STD))
    with torch.no_grad():
        expected = theirs(pixel_values=(images - mean) / std).image_embeds
        assert (ours(images) - expected).norm() / expected.norm() < 1e-5


def test_training_brings_texts_and_pictures_together(tmp_path):
    def losses(steps):
        encoders.train(tmp_path / "run", Settings(steps, 1e-3, warmup=5), torch.device("cpu"), batch=16)
        import json

        return json.loads((tmp_path / "run" / "losses.json").read_text())["clip"]

    curve = losses(60)
    assert curve[-1][1] < 0.8 * curve[0][1]
    text, image = encoders.load(averaged(tmp_path / "run"))
    assert not any(parameter.requires_grad for part in (text, image) for parameter in part.parameters())
