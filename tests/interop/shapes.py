"""The configurations that parity is tested on, and batches for them."""

import numpy as np

SMALL = {
    "vocab_size": 61,
    "embedding_size": 12,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "num_hidden_layers": 3,
    "type_vocab_size": 2,
}
ODD = {
    # 5 layers in 2 groups (3 and 2), each a pass through two blocks
    "groups": {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2, "hidden_act": "relu"},
    "square": {"embedding_size": 24, "hidden_act": "silu", "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    "untied": {"num_hidden_groups": 3, "hidden_act": "tanh", "tie_word_embeddings": False},
    "gelu": {"num_hidden_layers": 4, "num_hidden_groups": 2, "hidden_act": "gelu"},
    "gelu_new": {"hidden_act": "gelu_new", "inner_group_num": 2},
}
BASE = {
    "vocab_size": 3000,
    "embedding_size": 128,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "max_position_embeddings": 64,
}
LARGE = BASE | {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 24}
CLASSES = {
    "masked": "AlbertForMaskedLM",
    "classifier": "AlbertForSequenceClassification",
    "token_classifier": "AlbertForTokenClassification",
    "question_answering": "AlbertForQuestionAnswering",
    "encoder": "AlbertModel",
}
LABELS = 3


def batch(vocab_size, types, length, seed=0):
    """Token ids, padding mask and token types of three rows, two of them padded."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, vocab_size, (3, length)).astype(np.int32)
    mask = (np.arange(length) < np.array([[length], [length - 2], [length // 2]])).astype(np.int32)
    return np.where(mask, tokens, 0).astype(np.int32), mask, rng.integers(0, types, (3, length)).astype(np.int32)


def probe(shape, seed=1):
    """Fixed random weights, which turn an output into one number to differentiate."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))
