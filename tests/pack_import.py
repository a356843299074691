"""What importing an installed pack costs, in a host that has booted already, and what the pack then offers.

``python pack_import.py BASE INSTALLED RESULT`` writes JSON: for each of three imports the processor seconds and the
modules that came with it, the ids of the nodes of the source tree, and what the host read in ``pyproject.toml``.
"""

import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def load(host, pack):
    """Load a pack as the host does and return the seconds, the new modules and the new nodes."""
    import nodes

    modules, known = set(sys.modules), set(nodes.NODE_CLASS_MAPPINGS)
    # Of the processor: what else runs on the machine adds nothing to it.
    began = time.process_time()
    loaded = host.loop.run_until_complete(nodes.load_custom_node(str(pack), module_parent="custom_nodes"))
    seconds = time.process_time() - began
    assert loaded
    own = str(pack).replace(".", "_x_")
    new = [name for name in set(sys.modules) - modules if name != own and not name.startswith(f"{own}.")]
    return {"seconds": seconds, "modules": new, "nodes": list(set(nodes.NODE_CLASS_MAPPINGS) - known)}


def in_fork(host, pack):
    """Load a pack in a process of its own, which this one learns nothing from."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(load(host, pack)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        report = json.loads(pipe.read())
    os.waitpid(child, 0)
    return report


def main(base, installed, result):
    from devtools.inprocess_host import InProcessHost

    # The host reads its first pack's pyproject.toml with modules that would count as ours.
    stub = base / "stub"
    stub.mkdir()
    (stub / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (stub / "pyproject.toml").write_text('[project]\nname = "stub"\n')
    host = InProcessHost(base, stub)
    imports = [in_fork(host, installed) for _ in range(3)] if hasattr(os, "fork") else [load(host, installed)]
    from comfy_config.config_parser import extract_node_configuration

    read = extract_node_configuration(str(installed))
    report = {"imports": imports, "source": load(host, ROOT)["nodes"]}
    report |= {"project": read.project.model_dump(), "comfy": read.tool_comfy.model_dump()}
    result.write_text(json.dumps(report))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
