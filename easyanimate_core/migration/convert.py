"""A whole workflow, from one format to the same format."""

from typing import Any

from . import api_format, ui_format
from . import their_nodes as theirs
from .graph import REROUTE, Edge, Graph, Node
from .models import Loaders
from .release import convert_sampler
from .report import MigrationError, Report
from .saving import replace_video_combine, save_unseen
from .texts import Texts, is_their_box
from .work import Work
from .wrapper import convert_wrapper


def convert(
    content: Any, checkpoint: str | None = None, save_video: bool = False
) -> tuple[dict[str, Any], Report]:
    """Convert a workflow of the wrapper's or the release's nodes to this pack's.

    Parameters
    ----------
    content : dict
        Content of the file, in the UI's or the API's format; it is not changed.
    checkpoint : str, optional
        Checkpoint folder for all models, in place of the ones that the workflow names.
    save_video : bool
        Whether EasyAnimateV3 Save Video takes the place of VideoHelperSuite's node, which is kept otherwise.

    Returns
    -------
    tuple
        The workflow in the same format, and the report.

    Raises
    ------
    MigrationError
        If it is no workflow, has none of these nodes, or is for another version of EasyAnimate.
    """
    if ui_format.is_ui_format(content):
        work = Work(ui_format.read(content), checkpoint, ui_format.last(content, "last_node_id"))
        return ui_format.write(_converted(work, save_video), content), work.report
    prompt = api_format.prompt_of(content)
    if prompt is None:
        raise MigrationError(
            "This is no workflow of ComfyUI, neither as the UI saves it nor as it exports it for the API."
        )
    work = Work(api_format.read(prompt), checkpoint)
    return api_format.write(_converted(work, save_video)), work.report


def _converted(work: Work, save_video: bool) -> Graph:
    _refuse_others(work)
    loaders = Loaders(work)
    texts = Texts(work, loaders)
    convert_wrapper(work, loaders, texts)
    for old in work.graph.of_type(theirs.RELEASE_SAMPLERS):
        convert_sampler(work, loaders, texts, old)
    texts.keep_unused()
    save_unseen(work)
    if save_video:
        replace_video_combine(work)
    for old, new in work.made.items():
        work.report.replace(old, new)
    return _finished(work)


def _refuse_others(work: Work) -> None:
    graph = work.graph
    later = graph.of_type(theirs.LATER_SAMPLERS)
    if later:
        raise MigrationError(f"{later[0]} is a node for EasyAnimate V5, and this pack runs V3 only.")
    boxes = [node for node in graph.of_type(theirs.TEXTS) if is_their_box(node, work)]
    if not graph.of_type(theirs.CERTAIN) and not boxes:
        raise MigrationError(
            "This workflow has no node of the EasyAnimate wrapper nor of EasyAnimate's own ComfyUI nodes, so there is "
            "nothing to convert."
        )
    for node in graph.of_type(theirs.LATER_TOOLS):
        work.report.note(f"{node} is left as it is; V3 knows no camera or trajectory control.")


def _finished(work: Work) -> Graph:
    """Return the new graph: kept and new nodes, the edges that still lead somewhere."""
    gone = set(work.made) | _own_reroutes(work.graph)
    nodes = []
    for node in work.graph.nodes:
        nodes.extend(work.made.get(node, () if node in gone else (node,)))
    edges = []
    for edge in [*work.graph.edges, *work.edges]:
        if edge.target in gone:
            continue
        origin = work.outputs.get(edge.origin[:2], edge.origin)
        if origin.node not in gone:
            edges.append(Edge(origin, edge.target, edge.input, edge.id, edge.slot))
        else:
            named = work.graph.source(edge.target, edge.input) or edge.origin
            work.report.note(
                f"{edge.target}: its input {edge.input} had a link from {named.node} and has none now."
            )
    return Graph(nodes, edges)


def _own_reroutes(graph: Graph) -> set[Node]:
    """Return the reroutes of link types that are gone with the old nodes."""
    ends = [(node, edge) for edge in graph.edges for node in (edge.origin.node, edge.target)]
    return {node for node, edge in ends if node.type == REROUTE and edge.origin.type in theirs.OWN_TYPES}
