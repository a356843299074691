"""A host that runs each prompt in a forked process, which can be killed and costs no new boot.

``python fork_host.py BASE`` reads one JSON job a line, ``{"prompt": ..., "result": FILE}``, forks, prints the child's
process id, and after its end a line again. The child writes what happened to the result file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class ForkHost:
    """The running program, from the test's side."""

    def __init__(self, base, temporary):
        # Freed memory goes back at once, so that peaks show what is held and not what the C library keeps.
        memory = {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
        environ = {**os.environ, **memory, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        self.log = base / "fork_host.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(base)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                text=True,
            )
        self.results = base / "fork_host.json"
        assert self._read() == "ready"

    def start(self, prompt):
        """Begin a prompt and return its process id."""
        self.results.unlink(missing_ok=True)
        self.process.stdin.write(json.dumps({"prompt": prompt, "result": str(self.results)}) + "\n")
        self.process.stdin.flush()
        return int(self._read())

    def wait(self):
        """Wait for the end of the process and return what it wrote, or None if it was killed."""
        assert self._read() == "ended"
        return json.loads(self.results.read_text()) if self.results.exists() else None

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)

    def _read(self):
        line = self.process.stdout.readline().strip()
        assert line, self.log.read_text()[-3000:]
        return line


def serve(base):
    import torch

    from devtools.inprocess_host import InProcessHost

    # The prompt's own output goes to the log, and the protocol to the pipe.
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    host = InProcessHost(base)
    print("ready", file=protocol, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child:
            print(child, file=protocol, flush=True)
            os.waitpid(child, 0)
            print("ended", file=protocol, flush=True)
            continue
        run(host, job)
        os._exit(0)


def run(host, job):
    """Run a job's prompt and write what happened, with the most memory in use so far at each progress update."""
    import resource

    peaks = []
    host.on_progress = lambda node, value, total: peaks.append(
        (value, total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    )
    result = host.run(job["prompt"])
    report = {"success": result.success, "error": result.error_message, "peaks": peaks}
    partial = Path(job["result"] + ".part")
    partial.write_text(json.dumps(report))
    partial.replace(job["result"])


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
