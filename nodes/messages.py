"""Tell the user something that is no error: a line in the node, and in the log."""

import logging

from comfy_api.latest import io

from ..easyanimate_core.host.internals import PromptServer
from ..easyanimate_core.host.progress import shown_node_id


def show_in_node(node: type[io.ComfyNode], *messages: str | None) -> dict[str, tuple[str, ...]] | None:
    """Show the messages that are not None in the running node.

    Parameters
    ----------
    node : type
        The node class, whose schema asks for the hidden ``unique_id``.
    *messages : str or None
        One sentence each.

    Returns
    -------
    dict or None
        The node's ``ui`` output, so that the messages also stand in the prompt's history.
    """
    lines = tuple(message for message in messages if message)
    if not lines:
        return None
    for line in lines:
        logging.warning("%s: %s", node.define_schema().node_id, line)
    show_progress(node, "\n".join(lines))
    return {"text": lines}


def show_progress(node: type[io.ComfyNode], text: str) -> None:
    """Show a text in the running node while it works, in place of the one before.

    A node that another one expanded into is not on the user's screen: its text stands in that one.
    """
    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden.unique_id is not None:
        server.send_progress_text(text, shown_node_id(node.hidden.unique_id))
