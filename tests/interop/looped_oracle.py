"""The PyTorch classes of looped models as an oracle: read from a folder as it is released, run, and continued."""

import torch
import transformers
from shapes import probe


def load(folder):
    """The model of a folder, every parameter of it with a gradient."""
    model, about = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not about["missing_keys"] | about["unexpected_keys"] | about["mismatched_keys"], about
    model.eval()
    # none ends a text, so that all are of one length
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    for value in model.parameters():
        value.requires_grad_(True)
    return model


def logits(model, tokens, **options):
    """Of every token."""
    return model(torch.tensor(tokens, dtype=torch.long), use_cache=False, **_tensors(options)).logits


def gradients(model, out):
    """Of the weighted sum of the logits, by the names that tensors have in memory."""
    model.zero_grad()
    (out * torch.tensor(probe(tuple(out.shape)))).sum().backward()
    return {name: value.grad.numpy() for name, value in model.named_parameters()}


def continuation(model, tokens, new, **options):
    """The most probable `new` tokens, one by one; `use_cache` among the options."""
    ids = torch.tensor(tokens, dtype=torch.long)
    done = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, **_tensors(options)
    )
    return done[:, ids.shape[1] :].numpy()


def _tensors(options):
    return {name: torch.tensor(value) if hasattr(value, "shape") else value for name, value in options.items()}
