"""Models: the hub-safe zone. Files here travel with the weights, see CONTRIBUTING.md."""

from suzoo.models.modeling_cosent import CoSENTCrossEncoder, CoSENTModel

__all__ = ["CoSENTCrossEncoder", "CoSENTModel"]
