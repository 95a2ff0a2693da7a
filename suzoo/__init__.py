"""suzoo: the methods of kexue.fm as trainable HuggingFace models, losses and optimizers.

Nothing is imported here: take what you need from `suzoo.models`, `suzoo.losses`, `suzoo.optimizers` and so on.
"""

__version__ = "0.1.0"
