"""Write golden/: small ALBERTs in half precision, and what PyTorch computes with them. Run once, where torch is.

python tests/interop/make_golden.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import oracle
from shapes import ODD, SMALL, batch

GOLDEN = Path(__file__).with_name("golden")
TASKS = {"groups": "masked", "square": "classifier", "untied": "masked"}
# suffixes of the tensors whose gradients are kept
KEPT = (
    "word_embeddings.weight",
    "embeddings.LayerNorm.bias",
    "key.weight",
    "predictions.dense.weight",
    "pooler.weight",
)


def main():
    for name, task in TASKS.items():
        config = SMALL | ODD[name]
        model = oracle.make(config, task)
        tokens, mask, types = given = batch(config["vocab_size"], config["type_vocab_size"], 9)
        logits = oracle.run(model, *given)
        gradients = oracle.gradients(model, logits)
        states = oracle.run(model.albert, *given)[0]
        folder = GOLDEN / name
        shutil.rmtree(folder, ignore_errors=True)
        model.half().save_pretrained(folder)
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
        expected = {"logits": logits[0].detach().numpy(), "states": states.detach().numpy()}
        expected |= {f"gradient {key}": value for key, value in gradients.items() if key.endswith(KEPT)}
        np.savez_compressed(folder / "expected.npz", tokens=tokens, mask=mask, types=types, **expected)


if __name__ == "__main__":
    main()
