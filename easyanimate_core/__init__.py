"""EasyAnimateV3: the model and its mathematics, independent of ComfyUI except for :mod:`.host`."""
