"""Looking into a model: attributions, attention, gradients, and the size of an embedding."""

from suzoo.analysis.attention import (
    AttentionReport,
    attention_report,
    cosine_entropy_bound,
    gaussian_entropy,
    max_cosine_attention,
    noise_response,
)
from suzoo.analysis.embedding_size import embedding_entropy, recommended_dim
from suzoo.analysis.explain import Explanation, explain
from suzoo.analysis.flows import gradient_flow, wasserstein_flow
from suzoo.analysis.gradients import gradients_by_layer, gradients_through_time, set_forget_bias
from suzoo.analysis.integrated_gradients import Attribution, integrated_gradients

__all__ = [
    "AttentionReport",
    "Attribution",
    "Explanation",
    "attention_report",
    "cosine_entropy_bound",
    "embedding_entropy",
    "explain",
    "gaussian_entropy",
    "gradient_flow",
    "gradients_by_layer",
    "gradients_through_time",
    "integrated_gradients",
    "max_cosine_attention",
    "noise_response",
    "recommended_dim",
    "set_forget_bias",
    "wasserstein_flow",
]
