"""Developer tools behind ``dev.py``; nothing here is loaded by ComfyUI."""
