"""Where oneDNN's kernels, which PyTorch brings for CPUs, are called by name."""

import torch


def onednn_runs(x: torch.Tensor) -> bool:
    """Tell whether they take ``x``: float32 on a CPU, without gradients, which they do not know, and not while compiling."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
    )
