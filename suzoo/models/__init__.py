"""Models: the hub-safe zone. Files here travel with the weights, see CONTRIBUTING.md."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from suzoo.models._self_terminating import SelfTerminatingHead
from suzoo.models.configuration_dialogpt import DialoGPTConfig
from suzoo.models.configuration_gru import GRUEncoderConfig
from suzoo.models.configuration_tta import TTAConfig
from suzoo.models.configuration_unilm import UniLMConfig
from suzoo.models.modeling_cosent import CoSENTModel
from suzoo.models.modeling_cosent_cross_encoder import CoSENTCrossEncoder
from suzoo.models.modeling_dialogpt import DialoGPTForCausalLM, DialoGPTModel
from suzoo.models.modeling_gru import GRUEncoderModel
from suzoo.models.modeling_tta import Suggestion, TokenScore, TTAForMaskedLM, TTAModel
from suzoo.models.modeling_unilm import UniLMForCausalLM, UniLMModel

for _config, _backbone, _auto_class, _model in (
    (DialoGPTConfig, DialoGPTModel, AutoModelForCausalLM, DialoGPTForCausalLM),
    (UniLMConfig, UniLMModel, AutoModelForCausalLM, UniLMForCausalLM),
    (TTAConfig, TTAModel, AutoModelForMaskedLM, TTAForMaskedLM),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _backbone)
    _auto_class.register(_config, _model)
    # saved folders carry the code, so that they open where suzoo is not installed
    _config.register_for_auto_class()
    _backbone.register_for_auto_class("AutoModel")
    _model.register_for_auto_class(_auto_class.__name__)
AutoConfig.register(GRUEncoderConfig.model_type, GRUEncoderConfig)
AutoModel.register(GRUEncoderConfig, GRUEncoderModel)
GRUEncoderConfig.register_for_auto_class()
GRUEncoderModel.register_for_auto_class("AutoModel")

__all__ = [
    "CoSENTCrossEncoder",
    "CoSENTModel",
    "DialoGPTConfig",
    "DialoGPTForCausalLM",
    "DialoGPTModel",
    "GRUEncoderConfig",
    "GRUEncoderModel",
    "SelfTerminatingHead",
    "Suggestion",
    "TTAConfig",
    "TTAForMaskedLM",
    "TTAModel",
    "TokenScore",
    "UniLMConfig",
    "UniLMForCausalLM",
    "UniLMModel",
]
