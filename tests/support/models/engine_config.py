"""The config of an engine so small that its layers are made in no time."""

from mmbuild.backends.torch.config import EngineConfig
from mmbuild.models.families.facts import LlmFacts

LLM = LlmFacts(
    architecture="LlamaForCausalLM",
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_size=16,
    intermediate_size=64,
    hidden_act="silu",
    norm_epsilon=1e-5,
    max_position_embeddings=0,
    position_embedding_type="rope_gpt_neox",
)
CONFIG = EngineConfig(
    llm=LLM,
    encoder=None,
    dtype="float32",
    quant_algo=None,
    tensor_parallel=1,
    max_batch_size=2,
    max_beam_width=1,
    max_input_len=16,
    max_output_len=16,
    max_multimodal_len=4,
)
