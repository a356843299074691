"""Several processes that train one model, and a working copy in bfloat16."""

import copy
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from training import dit, workers
from training.latents import Encoder
from training.loop import Settings, Trainer
from training.muon import orthogonalise

STEPS = 3


def _train_by_hand(argument: tuple[Path, list[list[float]], bool]) -> None:
    """Train three matrices with the gradients of this worker, and save where they end."""
    folder, gradients, with_muon = argument
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    ways = [torch.randn(4, 4) for _ in model]
    names = [name for name, _ in model.named_parameters() if "weight" in name] if with_muon else []
    trainer = Trainer(folder, model, Settings(STEPS, 0.1, warmup=1, clip=100.0), matrices=names)
    mine = iter(gradients[workers.rank()])

    def loss(rng: random.Random) -> tuple[torch.Tensor, dict[str, float]]:
        total = sum((layer.weight * way).sum() for layer, way in zip(model, ways, strict=True))
        # Another direction at every step, or the optimizers would see no lengths.
        ways.append(ways.pop(0))
        return total * next(mine), {"loss": 0.0}

    trainer.fit(loss)
    torch.save(torch.cat([layer.weight.detach() for layer in model]), folder / f"end_{workers.rank()}.pt")


@pytest.mark.parametrize("with_muon", [False, True], ids=["AdamW", "Muon"])
def test_workers_step_along_the_mean_of_their_gradients(tmp_path, with_muon):
    alone, both = tmp_path / "alone", tmp_path / "both"
    workers.run(_train_by_hand, (alone, [[1.0, 3.0, 2.0]], with_muon), 1)
    workers.run(_train_by_hand, (both, [[1.0, 1.0, 2.0], [1.0, 5.0, 2.0]], with_muon), 2)
    expected = torch.load(alone / "end_0.pt")
    assert torch.allclose(torch.load(both / "end_0.pt"), expected, atol=1e-5)
    assert torch.equal(torch.load(both / "end_1.pt"), torch.load(both / "end_0.pt"))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 16), (2, 16, 64)])
def test_muon_makes_all_singular_values_alike(shape):
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), False)
    values = torch.linspace(0.1, 3, 16)
    direction = orthogonalise((u * values) @ v)
    assert torch.linalg.svdvals(direction).sub(0.95).abs().max() < 0.3
    # The same vectors: what is left of u' X v beside its diagonal is nothing.
    diagonal = u.mT @ direction @ v.mT
    assert (diagonal - torch.diag_embed(diagonal.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-3


def test_workers_draw_different_batches_and_clips(tmp_path):
    workers.run(_draw, tmp_path, 2)
    first, second = (torch.load(tmp_path / f"drawn_{rank}.pt") for rank in range(2))
    assert first["number"] != second["number"]
    assert (first["clips"], second["clips"]) == (["pool 5 0", "pool 5 2"], ["pool 5 1"])


class _Seeds:
    """Takes the place of the encoder, to tell what each clip would be drawn from."""

    def pooled(self, rng: random.Random) -> str:
        names, value = (f"pool 5 {index}" for index in range(9)), rng.random()
        return next(name for name in names if random.Random(name).random() == value)


def _draw(folder: Path) -> None:
    trainer = Trainer(folder, nn.Linear(1, 1), Settings(1, 0.1))
    drawn = {"number": trainer.choices(0)[0].random(), "clips": dit.fill_pool(_Seeds(), 3, 5)}
    torch.save(drawn, folder / f"drawn_{workers.rank()}.pt")


def _fail(argument: str) -> None:
    raise FileNotFoundError(argument)


def test_a_workers_error_is_told(tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="FileNotFoundError: no such run"):
        workers.run(_fail, "no such run", 2)


def test_bfloat16_copy_follows_the_float32_weights(tmp_path, make_base):
    """Both precisions see the same loss at every step, so the copy is renewed after each."""
    records = []
    for half in (False, True):
        base = make_base()
        encoder = Encoder(base.vae, base.clip, torch.device("cpu"))
        folder = tmp_path / str(half)
        dit.train(
            folder,
            Settings(12, 5e-3, warmup=1),
            encoder,
            base.text,
            torch.device("cpu"),
            pool_size=2,
            refresh=0.0,
            half=half,
            weights=copy.deepcopy(base.transformer),
            config=base.config,
        )
        state = torch.load(folder / "state.pt", weights_only=True)
        assert all(value.dtype == torch.float32 for value in state["model"].values())
        records.append(torch.tensor([value for _, value in state["record"]["loss"]]))
    full, half = records
    assert full[-1] < 0.9 * full[0]
    assert torch.allclose(half, full, rtol=0.05)
