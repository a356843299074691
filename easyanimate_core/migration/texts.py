"""Prompts: text boxes of the release, and the wrapper's text encoders."""

import re

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node, Output
from .models import Loaders
from .work import Work, output

_T5_TYPE = "pixart"
_WEIGHT = re.compile(r"\([^()]+:\s*[\d.]+\s*\)")


class Texts:
    """The text encoders; a text box becomes one for each CLIP that it is used with."""

    def __init__(self, work: Work, loaders: Loaders) -> None:
        self.work = work
        self.loaders = loaders
        self._made: dict[tuple[Node, Node], Output] = {}
        self._pairs: dict[Node, tuple[Output, Output]] = {}
        self._clips: dict[Node, Output] = {}
        for old in work.graph.of_type((theirs.WRAPPER_TEXT,)):
            self._wrapper(old)

    def of_box(self, sampler: Node, name: str, clip: Output) -> Output:
        """Return the conditioning of the text box that is linked to a sampler's input."""
        source = self.work.graph.source(sampler, name)
        if source is None or source.node.type not in theirs.TEXTS:
            self.work.report.note(f"{sampler} has no text box linked to {name}; its prompt is empty now.")
            return output(self.work.add(sampler, ours.TEXT, clip=clip))
        key = (source.node, clip.node)
        if key not in self._made:
            main = source.node not in self.work.made
            self._made[key] = self._encoder(source.node, "prompt", clip, main)
        return self._made[key]

    def keep_unused(self) -> None:
        """Keep the text of boxes that no sampler uses."""
        first = self.loaders.first()
        for box in self.work.graph.of_type(theirs.TEXTS):
            if box not in self.work.made and is_their_box(box, self.work):
                self._encoder(box, "prompt", first and first.text_encoder())

    def of_wrapper(self, sampler: Node) -> dict[str, Output]:
        """Return positive and negative of a wrapper's sampler, of all its versions."""
        source = self.work.graph.source(sampler, "easyanimate_embeds")
        if source is not None and source.node in self._pairs:
            return dict(zip(("positive", "negative"), self._pairs[source.node], strict=True))
        found = {name: self.work.linked(sampler, name) for name in ("positive", "negative")}
        for name, origin in found.items():
            if origin is None:
                self.work.report.note(f"{sampler} has nothing linked to {name}; link a prompt in its place.")
        return found

    def _encoder(self, old: Node, name: str, clip: Output | None, main: bool = True) -> Output:
        node = self.work.add(old, ours.TEXT, main=main, clip=clip)
        self.work.carry(node, "text", old, name)
        if _WEIGHT.search(str(node.values.get("text"))):
            self.work.report.note(
                f"{old}: weights such as (word:1.2) are read only with clean off in {node}."
            )
        return output(node)

    def _wrapper(self, old: Node) -> None:
        clip = self._clip(old)
        positive = self._encoder(old, "prompt", clip)
        # The first versions had both prompts in one node, with one output for both.
        if self.work.has(old, "negative_prompt"):
            self._pairs[old] = (positive, self._encoder(old, "negative_prompt", clip, main=False))
        else:
            self.work.outputs[old, 0] = positive

    def _clip(self, old: Node) -> Output | None:
        """Return the T5 encoder for a wrapper's text encoder."""
        source = self.work.graph.source(old, "clip")
        first = self.loaders.first()
        if source is None:
            named = self.work.graph.source(old, "easyanimate_pipeline")
            models = self.loaders.of.get(named.node) if named else first
            return models.text_encoder() if models else None
        loader = source.node
        if self.work.checkpoint is not None and first is not None:
            if loader.type == ours.CLIP and self._feeds_texts_alone(loader):
                self.work.made.setdefault(loader, [])
            return first.text_encoder()
        if loader.type != ours.CLIP:
            self.work.report.note(f"{loader} is kept; it has to load T5 with type {_T5_TYPE}.")
            return source
        if loader not in self._clips:
            self._clips[loader] = self._clip_loader(loader, old)
        return self._clips[loader]

    def _feeds_texts_alone(self, loader: Node) -> bool:
        return all(node.type == theirs.WRAPPER_TEXT for node in self.work.graph.consumers(loader))

    def _clip_loader(self, loader: Node, text: Node) -> Output:
        """Return a T5 loader of the type that fits; the old one stays for whatever else it feeds."""
        if self.work.value(loader, "type") == _T5_TYPE:
            return Output(loader, 0, "CLIP")
        alone = self._feeds_texts_alone(loader)
        node = self.work.add(loader if alone else text, ours.CLIP, main=alone, type=_T5_TYPE)
        self.work.carry(node, "clip_name", loader, "clip_name")
        if not alone:
            self.work.report.note(
                f"{loader} is kept for other nodes; {node} loads the same file for the prompts."
            )
        return output(node)


def is_their_box(node: Node, work: Work) -> bool:
    """Tell whether a node is a prompt box of the release, and no other pack's node of the same name."""
    if node.type != theirs.TEXTS[0]:
        return node.type in theirs.TEXTS
    outputs = node.stored.get("outputs") or []
    if outputs:
        return outputs[0].get("type") == theirs.PROMPT_TYPE
    return any(target.type in theirs.RELEASE_SAMPLERS for target in work.graph.consumers(node))
