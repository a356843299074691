"""Tell the user something that is no error: a line in the node, and in the log."""

import logging

from comfy_api.latest import io
from server import PromptServer


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
    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden.unique_id is not None:
        server.send_progress_text("\n".join(lines), node.hidden.unique_id)
    return {"text": lines}
