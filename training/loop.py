"""The loop that every stage of training shares: seeded, resumable, with an average of the weights and a loss curve."""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import workers
from .clips import ClipError
from .muon import Muon
from .pictures import curves, write_png
from .whole import whole_file

_SHOWN_POINTS = 400


@dataclass
class Settings:
    """How a stage is trained.

    Attributes
    ----------
    steps : int
        Optimizer steps of the whole run.
    learning_rate : float
        Highest learning rate: reached after ``warmup`` steps, then down to a fiftieth along a cosine.
    warmup : int
        Steps of the linear rise.
    seed : int
        Together with a step's number, all that a step's random choices depend on.
    average : float
        Share of the averaged weights that a step keeps (EMA).
    clip : float
        Largest norm of the gradient.
    matrix_rate : float
        Learning rate of matrices that Muon trains, as a multiple of the others'.
    save_seconds : float
        Time from one saving of the run's state to the next.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    seed: int = 0
    average: float = 0.999
    clip: float = 1.0
    matrix_rate: float = 3.0
    save_seconds: float = 120.0

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * min(done, 1))) / 2)


@dataclass
class Progress:
    """A progress bar of one line on standard error, and the record that the loss curve is drawn from."""

    name: str
    steps: int
    record: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    _means: dict[str, float] = field(default_factory=dict)
    _since: tuple[float, int] | None = None
    _shown: float = 0.0

    def add(self, step: int, values: dict[str, float]) -> None:
        """Take the values of a step and show where the run is."""
        every = max(self.steps // _SHOWN_POINTS, 1)
        for name, value in values.items():
            if not math.isfinite(value):
                continue
            mean = self._means.get(name, value)
            self._means[name] = mean + (value - mean) * 0.05
            if step % every == 0:
                self.record.setdefault(name, []).append((step, self._means[name]))
        now = time.monotonic()
        self._since = self._since or (now, step)
        if now - self._shown > (1 if sys.stderr.isatty() else 30) or step + 1 == self.steps:
            self._shown = now
            self._show(step, now)

    def _show(self, step: int, now: float) -> None:
        began, first = self._since or (now, step)
        left = (now - began) / max(step - first, 1) * (self.steps - step - 1)
        bar = "#" * round(20 * (step + 1) / self.steps)
        means = " ".join(f"{name} {value:.4f}" for name, value in self._means.items())
        end = "\r" if sys.stderr.isatty() and step + 1 < self.steps else "\n"
        line = f"{self.name} [{bar:20}] {step + 1}/{self.steps} {means}, {left / 60:.1f} min left"
        sys.stderr.write(line + end)
        sys.stderr.flush()


class Trainer:
    """Trains one model in a folder of its own, from where an earlier run was stopped.

    Parameters
    ----------
    folder : Path
        Gets ``state.pt`` (everything to go on from), ``loss.png``, ``losses.json`` and ``samples_*.png``.
    model : nn.Module
        Float32 model; trained in place.
    settings : Settings
        How it is trained. A run that goes on should have the same.
    identity : dict, optional
        Names and values that an earlier run in this folder must have had too.
    working : nn.Module, optional
        Copy of the model in another precision, which the loss is computed with; the model itself by default.
    matrices : collection of str
        Names of the two-axis parameters that :class:`.muon.Muon` trains; AdamW trains the others.

    Raises
    ------
    ClipError
        If the folder holds a run of another identity, or of an older version.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        settings: Settings,
        identity: dict[str, Any] | None = None,
        working: nn.Module | None = None,
        matrices: Collection[str] = (),
    ) -> None:
        self.folder, self.model, self.settings = Path(folder), model, settings
        self.working = model if working is None else working
        self.identity = identity or {}
        self.step = 0
        self.progress = Progress(self.folder.name, settings.steps)
        self.optimizers = _optimizers(model, matrices)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "state.pt").is_file():
            self._load()
        self._refresh()

    def fit(
        self,
        loss: Callable[[random.Random], tuple[torch.Tensor, dict[str, float]]],
        sample: Callable[[int], torch.Tensor] | None = None,
        sample_every: int = 500,
    ) -> None:
        """Train to the last step.

        Parameters
        ----------
        loss : callable
            Gets a step's source of random choices (torch's own is seeded too); returns the loss and values to show.
        sample : callable, optional
            Gets the step's number and returns a picture ``[3, height, width]``; it sees the averaged weights.
        sample_every : int
            Steps from one picture to the next.
        """
        saved = time.monotonic()
        self.working.train()
        first = workers.rank() == 0
        while self.step < self.settings.steps:
            self._one_step(loss)
            self.step += 1
            done = self.step == self.settings.steps
            if first and sample is not None and (self.step % sample_every == 0 or done):
                self._sample(sample)
            if first and (done or time.monotonic() - saved > self.settings.save_seconds):
                self.save()
                saved = time.monotonic()

    def choices(self, step: int) -> tuple[random.Random, int]:
        """Return a step's source of random choices as its loss gets it, and the seed of torch's own."""
        worker = f" {workers.rank()}" if workers.rank() else ""
        rng = random.Random(f"{self.settings.seed} {step}{worker}")
        return rng, rng.getrandbits(62)

    def _one_step(self, loss: Callable[[random.Random], tuple[torch.Tensor, dict[str, float]]]) -> None:
        rng, seed = self.choices(self.step)
        torch.manual_seed(seed)
        value, shown = loss(rng)
        value.backward()
        gradient = self._gradient()
        norm = gradient.norm()
        if torch.isfinite(norm):
            gradient *= (self.settings.clip / norm).clamp(max=1)
            self._update(gradient)
        if workers.rank() == 0:
            self._average()
            self.progress.add(self.step, shown)

    def _gradient(self) -> torch.Tensor:
        """Return the gradient of all parameters in one row, its mean over all workers."""
        parts = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.working.parameters()
        ]
        gradient = torch.cat([part.float().flatten() for part in parts])
        workers.average(gradient)
        self.working.zero_grad(set_to_none=True)
        return gradient

    def _update(self, gradient: torch.Tensor) -> None:
        """Let the optimizers make their step."""
        parameters = list(self.model.parameters())
        parts = gradient.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                scale = self.settings.matrix_rate if isinstance(optimizer, Muon) else 1.0
                group["lr"] = scale * self.settings.rate(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._refresh()

    @torch.no_grad()
    def _average(self) -> None:
        # Young averages forget faster, or the random start would linger.
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        current = self.model.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [current[name] for name in self.average], 1 - keep)

    @torch.no_grad()
    def _refresh(self, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Copy weights, the model's by default, to the working copy."""
        if weights is None and self.working is self.model:
            return
        source = self.model.state_dict() if weights is None else weights
        for name, target in self.working.state_dict().items():
            target.copy_(source[name])

    def _sample(self, sample: Callable[[int], torch.Tensor]) -> None:
        with torch.no_grad(), torch.random.fork_rng():
            trained = {name: value.clone() for name, value in self.model.state_dict().items()}
            self._refresh(self.average)
            self.working.eval()
            write_png(self.folder / f"samples_{self.step:06d}.png", sample(self.step))
            self._refresh(trained)
            self.working.train()

    def save(self) -> None:
        """Write everything to go on from, whole or not at all, and the loss curve."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "identity": self.identity,
            "record": self.progress.record,
        }
        save_whole(self.folder / "state.pt", state)
        with whole_file(self.folder / "losses.json") as partial:
            partial.write_text(json.dumps(self.progress.record))
        write_png(self.folder / "loss.png", curves(self.progress.record))

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location="cpu", weights_only=True)
        for name, value in state.get("identity", {}).items():
            if value != self.identity.get(name):
                raise ClipError(
                    f"{self.folder} holds a run with {name} {value}, not {self.identity.get(name)}: "
                    "give that, or start in another folder."
                )
        if "optimizers" not in state:
            raise ClipError(f"{self.folder / 'state.pt'} is of an older version: start in another folder.")
        self.model.load_state_dict(state["model"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]
        self.progress.record = {name: [tuple(p) for p in curve] for name, curve in state["record"].items()}


def _optimizers(model: nn.Module, matrices: Collection[str]) -> list[torch.optim.Optimizer]:
    named = dict(model.named_parameters())
    rest = [parameter for name, parameter in named.items() if name not in set(matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    ]
    if matrices:
        chosen = [named[name] for name in matrices]
        optimizers.append(Muon(chosen))
    return optimizers


def save_whole(path: Path, value: Any) -> None:
    """Save with torch so that a crash leaves the old file or the new one."""
    with whole_file(path) as partial:
        torch.save(value, partial)


def averaged(folder: Path) -> dict[str, torch.Tensor]:
    """Return the averaged weights of a stage's folder.

    Raises
    ------
    FileNotFoundError
        If the stage was not trained yet; says which command does.
    """
    path = Path(folder) / "state.pt"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: run `python -m training {Path(folder).name}` first.")
    return torch.load(path, map_location="cpu", weights_only=True)["average"]


def initialise(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Fill parameters that the layers leave empty (tables of scales and shifts) with small normal numbers."""
    for name, parameter in parameters:
        if name.endswith("scale_shift_table"):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
