"""``python convert_workflow.py OLD.json``: turn a workflow of other EasyAnimate nodes into one for this pack."""

import sys
from pathlib import Path

# The Python of portable ComfyUI does not look into a script's own folder.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from easyanimate_core.migration.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
