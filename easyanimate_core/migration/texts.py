"""Prompts: text boxes of the release, and the wrapper's text encoders."""

import re

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node, Output
from .models import Loaders
from .work import Work

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
        box = source.node if source is not None and source.node.type in theirs.TEXTS else None
        if box is None:
            self.work.report.note(f"{sampler} has no text box linked to {name}; its prompt is empty now.")
            node = self.work.add(sampler, ours.TEXT, text="")
            self.work.connect(node, "clip", clip)
            return self.work.output(node)
        if (box, clip.node) not in self._made:
            node = self._encoder(box, "prompt", main=box not in self.work.made)
            self.work.connect(node, "clip", clip)
            self._made[box, clip.node] = self.work.output(node)
        return self._made[box, clip.node]

    def keep_unused(self) -> None:
        """Keep the text of boxes that no sampler uses."""
        first = self.loaders.first()
        for box in self.work.graph.of_type(theirs.TEXTS):
            if box not in self.work.made and is_their_box(box, self.work):
                node = self._encoder(box, "prompt", main=True)
                self.work.connect(node, "clip", first and first.text_encoder())

    def of_wrapper(self, sampler: Node, new: Node) -> None:
        """Link positive and negative of a wrapper's sampler, of all its versions."""
        source = self.work.graph.source(sampler, "easyanimate_embeds")
        pair = self._pairs.get(source.node) if source else None
        for index, name in enumerate(("positive", "negative")):
            if pair is not None:
                self.work.connect(new, name, pair[index])
            elif not self.work.link(new, name, sampler, name):
                self.work.report.note(f"{sampler} has nothing linked to {name}; link a prompt to {new}.")

    def _encoder(self, old: Node, name: str, main: bool) -> Node:
        node = self.work.add(old, ours.TEXT, main=main, text="", clean=True)
        self.work.carry(node, "text", old, name)
        if _WEIGHT.search(str(node.values["text"])):
            self.work.report.note(
                f"{old}: weights such as (word:1.2) are read only with clean off in {node}."
            )
        return node

    def _wrapper(self, old: Node) -> None:
        node = self._encoder(old, "prompt", main=True)
        self.work.connect(node, "clip", self._clip(old))
        if "negative_prompt" not in old.values:
            self.work.outputs[old, 0] = self.work.output(node)
            return
        # The first versions had both prompts in one node, with one output for both.
        negative = self._encoder(old, "negative_prompt", main=False)
        self.work.connect(negative, "clip", self._clip(old))
        self._pairs[old] = (self.work.output(node), self.work.output(negative))

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
                self.work.drop(loader)
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
        if loader.values.get("type") == _T5_TYPE:
            return Output(loader, 0, "CLIP")
        alone = self._feeds_texts_alone(loader)
        name = loader.values.get("clip_name", "")
        node = self.work.add(loader if alone else text, ours.CLIP, main=alone, clip_name=name, type=_T5_TYPE)
        if not alone:
            self.work.report.note(
                f"{loader} is kept for other nodes; {node} loads the same file for the prompts."
            )
        return self.work.output(node)


def is_their_box(node: Node, work: Work) -> bool:
    """Tell whether a node is a prompt box of the release, and no other pack's node of the same name."""
    if node.type != theirs.TEXTS[0]:
        return node.type in theirs.TEXTS
    outputs = node.stored.get("outputs") or []
    if outputs:
        return outputs[0].get("type") == theirs.PROMPT_TYPE
    return any(target.type in theirs.RELEASE_SAMPLERS for target in work.graph.consumers(node))
