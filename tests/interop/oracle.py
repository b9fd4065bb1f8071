"""The PyTorch classes as an oracle: random weights on disk, what they compute, and gradients under their names."""

import numpy as np
import torch
import transformers
from shapes import CLASSES


def make(config, task, labels=3, seed=0):
    """A model with random weights in every tensor, biases and norms included."""
    torch.manual_seed(seed)
    made = transformers.AlbertConfig(**config, num_labels=labels, attn_implementation="eager")
    model = getattr(transformers, CLASSES[task])(made).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.05 * torch.randn_like(value)
    return model


def run(model, task, tokens, mask, types):
    """Outputs in jaxode's order of importance: logits, or states and pooled vector."""
    given = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}
    out = model(**{name: torch.tensor(value, dtype=torch.long) for name, value in given.items()})
    return (out.last_hidden_state, out.pooler_output) if task == "encoder" else (out.logits,)


def weights_like(output, seed=1):
    """Fixed random weights that turn an output into one number."""
    return np.random.default_rng(seed).normal(size=output.shape).astype(np.float32) / np.sqrt(output[0].size)


def gradients(model, outputs):
    """Of the weighted sum of the outputs."""
    model.zero_grad()
    sum((out * torch.tensor(weights_like(out.detach().numpy()))).sum() for out in outputs).backward()
    return {name: value.grad.numpy() for name, value in model.named_parameters() if value.grad is not None}
