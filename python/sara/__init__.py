"""SaRA (ICLR 2025, arXiv 2409.06633) in one line of a PyTorch script: optimizer = sara.adamw(unet,
threshold=2e-3) trains the parameters that the pretrained model hardly uses, those with |p| <
threshold, and leaves the module as it is."""
from .adapters import apply, compose, merge, remove
from .optimizer import AdamW, adamw
from .selection import default_lr, report, select

__version__ = "0.1.0"
__all__ = ["AdamW", "adamw", "apply", "compose", "default_lr", "merge", "remove", "report",
           "select"]
