"""What a conversion did, or why there is none, in sentences for the user."""

from dataclasses import dataclass, field

from .graph import Node


class MigrationError(ValueError):
    """The file is no workflow, or not one for EasyAnimateV3; the message is one sentence for the user."""


@dataclass
class Report:
    """Sentences on what was replaced, and on what could not be carried over."""

    replaced: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def replace(self, old: Node, new: list[Node]) -> None:
        """Tell that ``new`` stand for ``old`` now."""
        names = ", ".join(map(str, new)) or "nothing, since nothing needs it any more"
        self.replaced.append(f"{old} became {names}.")

    def note(self, sentence: str) -> None:
        """Tell something once."""
        if sentence not in self.notes:
            self.notes.append(sentence)
