"""What training shows the transformer is what the nodes show it: same latents of masks and masked videos, same attention."""

import random
from dataclasses import replace

import pytest
import torch

from easyanimate_core.conditioning import encode_inpaint, mask_and_masked_video
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from training import dit, folder, vae
from training.encoders import ClipImageEncoder, T5Encoder
from training.latents import Batch, Encoder, draw_batch
from training.scenes import DIRECTIONS, MOVES, SIDE, Scenes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(vae_config):
    torch.manual_seed(0)
    model = vae.build(vae_config).eval().requires_grad_(False)
    return Encoder(model, ClipImageEncoder().eval(), CPU, Scenes())


@pytest.fixture(scope="module")
def pool(encoder):
    clips = [encoder.pooled(random.Random(seed)) for seed in (0, 1, 5)]
    assert [len(clip.latents) for clip in clips] == [4, 2, 3]
    return clips


def conditioning_of_nodes(encoder, frames, start, end):
    """Conditioning of a clip ``[frames, 3, 64, 64]`` whose first and last frames are given, as the nodes make it."""
    given = frames.movedim(1, -1)
    mask, video = mask_and_masked_video(
        len(frames), 64, 64, given[:start] if start else None, given[len(frames) - end :] if end else None
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return encode_inpaint(encoder.vae, mask, video)[0].float()


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_every_row_of_a_batch_is_a_clip_that_the_nodes_can_ask_for(encoder, pool, slices):
    batch = draw_batch(pool, encoder, random.Random(0), slices, 60)
    clips = [clip.scene.render() for clip in pool]
    parts = [
        frames[8 * begin : 8 * (begin + slices)]
        for frames in clips
        for begin in range(len(frames) // 8 - slices + 1)
    ]
    kinds = [(start, end) for start in range(5) for end in range(2) if start or not end]
    possible = {
        (part, kind): conditioning_of_nodes(encoder, frames, *kind)
        for part, frames in enumerate(parts)
        for kind in kinds
    }
    seen = set()
    for latents, row in zip(batch.latents, batch.conditioning, strict=True):
        near = [key for key, value in possible.items() if (row - value).norm() < 2e-3 * value.norm()]
        assert near
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            whole = {
                part: encoder.vae.encode(parts[part].transpose(0, 1)[None] * 2 - 1)[0] * 0.18215
                for part in {part for part, _ in near}
            }
        matching = [key for key in near if (latents - whole[key[0]]).norm() < 2e-3 * whole[key[0]].norm()]
        assert matching
        seen.update(kind for _, kind in matching)
    assert (0, 0) in seen and (1, 0) in seen and any(start > 1 for start, _ in seen)
    assert ((1, 1) in seen) == (slices > 1)


@pytest.mark.parametrize("slices", [1, 3])
def test_a_lead_that_the_caption_does_not_tell_of_is_always_given(encoder, slices):
    class Leads(Scenes):
        def draw(self, rng, frames):
            return replace(super().draw(rng, frames), lead=3)

    source = Encoder(encoder.vae, encoder.clip, CPU, Leads())
    pooled = source.pooled(random.Random(0))
    batch = draw_batch([pooled], source, random.Random(0), slices, 12)
    clip = pooled.scene.render()[: 8 * slices]
    possible = [conditioning_of_nodes(source, clip, 3, end) for end in range(1 + (slices > 1))]
    for row in batch.conditioning:
        assert any((row - value).norm() < 2e-3 * value.norm() for value in possible)


def test_moving_shapes_of_the_pool_do_not_all_begin_at_an_edge(encoder):
    """Or a transformer would take a shape in the middle of the picture for one that cannot turn."""
    away = []
    for seed in range(24):
        scene = encoder.pooled(random.Random(seed)).scene
        if scene.action in MOVES:
            right, down = DIRECTIONS[scene.action.removeprefix("moving ")]
            place = scene.x if right else scene.y
            away.append((place if right + down > 0 else SIDE - place) - scene.radius - 1)
    assert sum(way > 8 for way in away) > len(away) / 5


def test_images_are_conditioned_as_text_to_image(encoder, pool):
    batch = draw_batch(pool, encoder, random.Random(0), 0, 4)
    expected = conditioning_of_nodes(encoder, torch.zeros(1, 3, 64, 64), 0, 0)
    assert batch.latents.shape == (4, 4, 1, 8, 8)
    assert not batch.with_clip.any()
    for row in batch.conditioning:
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-3)


def test_masked_attention_equals_dropping_the_tokens(transformer_config):
    torch.manual_seed(0)
    trained, attention = dit.build(transformer_config)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain = EasyAnimateTransformer3D(TransformerConfig.from_dict(transformer_config))
    plain.load_state_dict(trained.state_dict())
    text = T5Encoder()
    captions = ["a red circle moving right on a blue background", "", "a square", "a green cross"]
    with_clip = torch.tensor([True, False, False, True])
    x, conditioning = torch.randn(4, 4, 2, 4, 4), torch.randn(4, 8, 2, 4, 4)
    batch = Batch(x, conditioning, captions, torch.randn(4, 768), with_clip)
    timestep = torch.tensor([10.0, 400.5, 999.0, 0.0])
    with torch.no_grad():
        predicted = dit.Denoiser(trained, attention, text, CPU).predict(x, timestep, batch)
        tokens, mask = dit.encode_batch(captions)
        expected = plain(
            torch.cat((x, conditioning), dim=1),
            timestep,
            text(tokens, mask),
            mask.sum(1).tolist(),
            batch.embeds,
            with_clip.tolist(),
        )[:, :4]
    assert (predicted - expected).norm() / expected.norm() < 1e-5


def test_text_is_padded_where_self_and_cross_attention_could_be_confused():
    usual, _ = dit.padded_text(["a circle"], 64)
    tokens, mask = dit.padded_text(["a circle"], 8 + usual.shape[1])
    assert tokens.shape[1] == usual.shape[1] + 1
    assert mask.sum().item() == mask[0, :3].sum().item() == 3


@pytest.mark.parametrize("frames", [1, 8, 16])
def test_trained_convolutions_are_the_vaes(vae_config, frames):
    from easyanimate_core.vae import SliceVAE, SliceVAEConfig

    torch.manual_seed(0)
    trained = vae.build(vae_config)
    for parameter in trained.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    plain = SliceVAE(SliceVAEConfig.from_dict(vae_config))
    plain.load_state_dict(trained.state_dict())
    pixels = torch.rand(1, 3, frames, 32, 32) * 2 - 1
    results = []
    for model in (plain, trained):
        model.zero_grad()
        back = model.decode(model.encode(pixels))
        back.square().mean().backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        results.append((back.detach(), gradients))
    for ours, reference in zip(results[1], results[0], strict=True):
        assert (ours - reference).norm() / reference.norm() < 1e-4


def test_mixed_precision_gradients_are_near_those_of_full_precision(vae_config):
    torch.manual_seed(0)
    model = vae.build(vae_config)
    pixels = torch.rand(1, 3, 8, 32, 32) * 2 - 1
    gradients = []
    for mixed in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            back = model.decode(model.encode(pixels))
        (back.float() - pixels).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    full, mixed = gradients
    assert (mixed - full).norm() / full.norm() < 0.05


def test_standardised_vae_reconstructs_the_same_and_has_unit_latents(vae_config):
    torch.manual_seed(0)
    model = vae.build(vae_config).requires_grad_(False)
    pixels = torch.rand(6, 3, 8, 32, 32) * 2 - 1
    mean, logvar = model.encode_moments(pixels)
    back = model.decode(mean)
    folder.standardise(model, mean)
    scaled, new_logvar = model.encode_moments(pixels)
    latents = scaled * model.config.scaling_factor
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3, 4)) - 1).abs().max() < 1e-3
    again = model.decode(scaled)
    assert (again - back).norm() / back.norm() < 1e-4
    # The posterior's width follows its mean.
    factor = (scaled.std((0, 2, 3, 4)) / mean.std((0, 2, 3, 4))).view(1, -1, 1, 1, 1)
    torch.testing.assert_close(new_logvar, logvar + 2 * factor.log(), rtol=1e-3, atol=1e-3)


def test_masked_slices_hold_given_frames_and_black_ones():
    """Given frames lie at one end, and where they are held instead nothing else differs."""
    ends = set()
    for seed in range(20):
        masked, held, given = vae.draw_masked(random.Random(seed), 1)
        black = (masked == -1).all(dim=(0, 1, 3, 4))
        count = 8 - int(black.sum())
        assert 1 <= count <= 4
        at_end = not bool(black[-1])
        ends.add(at_end)
        kept = range(8 - count, 8) if at_end else range(count)
        assert black.tolist() == [index not in kept for index in range(8)]
        assert given.tolist() == [[not at_end, at_end]]
        nearest = [min(max(index, kept[0]), kept[-1]) for index in range(8)]
        assert torch.equal(held, masked[:, :, nearest])
    assert ends == {False, True}
