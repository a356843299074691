"""Speed and memory of each stage of the model, and of the release's own code beside it: ``python dev.py bench``."""
