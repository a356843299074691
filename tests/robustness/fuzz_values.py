"""What may stand at a node's input: descriptions that hypothesis draws and that are made into objects for a run."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8", "int64", "bool", "complex64")
FLOAT_DTYPES = DTYPES[:4]
LAYOUTS = ("plain", "transposed", "strided", "expanded")
FINITE_FILLS = ("unit", "zeros", "ones", "normal", "wide")
WILD_FILLS = (*FINITE_FILLS, "nan", "inf", "all nan", "huge")


@dataclass(frozen=True)
class Tensor:
    """A tensor; equal descriptions make equal tensors."""

    shape: tuple[int, ...]
    fill: str = "unit"
    dtype: str = "float32"
    layout: str = "plain"
    grad: bool = False

    def make(self, _models: Any = None) -> torch.Tensor:
        dtype = getattr(torch, self.dtype)
        shape = list(self.shape)
        if self.layout == "transposed" and len(shape) > 1:
            values = self._values([*shape[:-2], shape[-1], shape[-2]]).transpose(-1, -2)
        elif self.layout == "strided" and shape:
            values = self._values([*shape[:-1], 2 * shape[-1]])[..., ::2]
        elif self.layout == "expanded" and shape:
            values = self._values([1, *shape[1:]]).expand(shape)
        else:
            values = self._values(shape)
        if dtype != torch.float32:
            values = (values * 255 if dtype == torch.uint8 else values).to(dtype)
        return values.detach().requires_grad_(self.grad and dtype.is_floating_point)

    def _values(self, shape: list[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        values = torch.rand(shape, generator=generator)
        if self.fill in ("zeros", "ones"):
            return torch.full(shape, float(self.fill == "ones"))
        if self.fill == "normal":
            return torch.randn(shape, generator=generator)
        if self.fill == "wide":
            return values * 6 - 2
        if self.fill == "all nan":
            return torch.full(shape, float("nan"))
        if self.fill == "huge":
            return values * 3e38
        if self.fill in ("nan", "inf") and values.numel():
            values.view(-1)[values.numel() // 2] = float(self.fill)
        return values

    @property
    def finite(self) -> bool:
        return self.fill in FINITE_FILLS


@dataclass(frozen=True)
class Array:
    """A numpy array in place of a tensor."""

    shape: tuple[int, ...]
    finite = True

    def make(self, _models: Any = None) -> np.ndarray:
        return np.full(self.shape, 0.5, np.float32)


@dataclass(frozen=True)
class Listed:
    """Some descriptions in a list, or a tuple."""

    items: tuple[Any, ...]
    kind: type = list

    def make(self, models: Any = None) -> Any:
        return self.kind(make(item, models) for item in self.items)

    @property
    def finite(self) -> bool:
        return all(is_finite(item) for item in self.items)


@dataclass(frozen=True)
class Changed:
    """A dictionary: a model's or a prepared object's one, with keys changed or (``GONE``) taken out."""

    base: str | None
    changes: dict[str, Any] = field(default_factory=dict)

    def make(self, models: Any) -> dict[str, Any]:
        made = dict(models[self.base]) if self.base else {}
        for key, value in self.changes.items():
            made.pop(key, None)
            if value is not GONE:
                made[key] = make(value, models)
        return made

    @property
    def finite(self) -> bool:
        return all(is_finite(value) for value in self.changes.values())


@dataclass(frozen=True)
class Attributes:
    """An object of the host's class for CLIP embeddings, with these attributes."""

    values: dict[str, Any]

    def make(self, models: Any) -> Any:
        made = models["clip_vision_output"].__class__()
        for key, value in self.values.items():
            made[key] = make(value, models)
        return made

    @property
    def finite(self) -> bool:
        return all(is_finite(value) for value in self.values.values())


@dataclass(frozen=True)
class Model:
    """One of the models and prepared objects of :class:`fuzz_models.Models`, by name."""

    name: str
    finite = True

    def make(self, models: Any) -> Any:
        return models[self.name]


@dataclass(frozen=True)
class Given:
    """Any other value, to come over a link."""

    value: Any
    finite = True

    def make(self, _models: Any = None) -> Any:
        return self.value


GONE = object()
LINKED = (Tensor, Array, Listed, Changed, Attributes, Model, Given)


def make(value: Any, models: Any) -> Any:
    """Make the object of a description; anything else stands for itself."""
    return value.make(models) if isinstance(value, LINKED) else value


def is_finite(value: Any) -> bool:
    """Tell whether a value holds no NaN, no infinity and nothing near to it."""
    if isinstance(value, float):
        return value == value and abs(value) < 1e30
    return value.finite if isinstance(value, LINKED) else True


def mostly(usual: st.SearchStrategy, odd: st.SearchStrategy, share: int = 4) -> st.SearchStrategy:
    """Draw the usual ``share - 1`` times in ``share``."""
    return st.integers(1, share).flatmap(lambda number: odd if number == share else usual)


def tensors(
    shapes: st.SearchStrategy, fills: tuple[str, ...] = WILD_FILLS, dtypes: tuple[str, ...] = DTYPES
) -> st.SearchStrategy:
    """Draw tensors of these shapes, each odd in one way at most times."""
    plain = st.builds(Tensor, shapes)
    return st.one_of(
        plain,
        st.builds(Tensor, shapes, fill=st.sampled_from(fills)),
        st.builds(Tensor, shapes, dtype=st.sampled_from(dtypes)),
        st.builds(
            Tensor,
            shapes,
            st.sampled_from(FINITE_FILLS),
            st.sampled_from(FLOAT_DTYPES),
            st.sampled_from(LAYOUTS),
            st.booleans(),
        ),
    )


# No model, no tensor: what a careless node may send over a link.
NONSENSE = st.sampled_from(
    [Given(None), Given("text"), Given(3), Given(2.5), Given([]), Given({}), Given(()), Given(b"\0")]
)
