"""The PyTorch classes as an oracle: models with random weights, what they compute, and their gradients."""

import torch
import transformers
from shapes import CLASSES, LABELS, probe


def make(config, task, seed=0):
    """A model with noise on every tensor, so that biases and norms count; values that half precision holds exactly."""
    torch.manual_seed(seed)
    labels = 2 if task == "question_answering" else LABELS
    made = transformers.AlbertConfig(**config, num_labels=labels, attn_implementation="eager")
    model = getattr(transformers, CLASSES[task])(made).eval()
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn_like(value) / max(8.0, value.shape[-1] ** 0.5)
            value.copy_((value + noise).half().float())
    return model


def run(model, tokens, mask, types):
    """Logits; states and pooled vector for a bare encoder."""
    given = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}
    out = model(**{name: torch.tensor(value, dtype=torch.long) for name, value in given.items()})
    if hasattr(out, "start_logits"):
        return (torch.stack([out.start_logits, out.end_logits], dim=-1),)
    return (out.last_hidden_state, out.pooler_output) if hasattr(out, "pooler_output") else (out.logits,)


def gradients(model, outputs):
    """Of the weighted sum of the outputs, by the names of the tensors."""
    model.zero_grad()
    torch.stack(
        [(out * torch.tensor(probe(tuple(out.shape)))).sum() for out in outputs if out is not None]
    ).sum().backward()
    return {name: value.grad.numpy() for name, value in model.named_parameters() if value.grad is not None}
