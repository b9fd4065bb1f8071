"""Write golden/dory and golden/hrm_text: small models in half precision, and what PyTorch computes with them.

Run once, where torch is: python tests/interop/make_looped_golden.py
"""

import json
import shutil
from pathlib import Path

import looped_oracle as oracle
import numpy as np
from references import dory, hrm_text
from safetensors.numpy import save_file

GOLDEN = Path(__file__).with_name("golden")
NEW = 64
# parts of the names of tensors whose gradients are kept
KEPT = {
    dory: ("embed_tokens", "layers.2.self_attn.gate_proj", "layers.3.mlp.suv", "sqk", "s_gate", "lambda", "scale"),
    hrm_text: ("embed_tokens", "z_L_init", "H_module.layers.1.self_attn", "L_module.layers.0.mlp.down_proj"),
}


def main():
    for reference, kept in KEPT.items():
        name = reference.__name__.rpartition(".")[2]
        folder = GOLDEN / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        tensors = {
            key: value.astype(np.float16) for key, value in reference.random_tensors(reference.CONFIG, 7).items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(reference.CONFIG, indent=1) + "\n")
        np.savez_compressed(folder / "expected.npz", **expected(folder, reference, kept))


def expected(folder, reference, kept):
    """What the model of a folder computes."""
    model = oracle.load(folder)
    tokens = np.random.default_rng(0).integers(0, reference.CONFIG["vocab_size"], (2, 9))
    out = oracle.logits(model, tokens)
    found = {"tokens": tokens, "logits": out.detach().numpy()}
    found |= {
        f"gradient {key}": value.astype(np.float32)
        for key, value in oracle.gradients(model, out).items()
        if any(part in key for part in kept)
    }
    found["continuation"] = oracle.continuation(model, tokens, NEW, use_cache=True)
    assert (oracle.continuation(model, tokens, NEW, use_cache=False) == found["continuation"]).all()
    if reference is dory:
        model.config.recurrent_kv_cache_mode = "last_loop"
        found["last_loop"] = oracle.continuation(model, tokens, NEW, use_cache=True)
        assert (found["last_loop"] != found["continuation"]).any()
    else:
        types = (np.arange(9) < np.array([[9], [5]])).astype(np.int64)
        found["types"], found["prefix_logits"] = (
            types,
            oracle.logits(model, tokens, token_type_ids=types).detach().numpy(),
        )
        found["prefix_continuation"] = oracle.continuation(
            model, tokens[:1], NEW, token_type_ids=types[:1], use_cache=True
        )
    return found


if __name__ == "__main__":
    main()
