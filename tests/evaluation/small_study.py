"""A small study as text, and players in the place of its processes."""

import json
import shutil
from pathlib import Path

from jaxode.config import Config, from_toml
from jaxode.evaluation.figures import write_csv

RECIPE = """
[model]
width = 16
heads = 2
length = 16
steps = 4
[depth]
adjoint = "remat"
[optimizer]
name = "adamw"
[data]
files = "FILES/*.txt"
tokenizer = "bytes"
cache = "FILES/cache"
valid_fraction = 0.3
[train]
updates = 4
batch_size = 4
devices = 1
"""
HEAD = """
[study]
recipe = "recipe.toml"
seeds = [0, 1]
calibrate = [3, 2]
evaluate = [4, 2]
batches = 6
baseline = "fixed"
"""
VARIANTS = """
[[variant]]
name = "fixed"
[[variant]]
name = "direct-2"
settings = { "depth.steps" = 2 }
[[variant]]
name = "unshared"
seeds = [1]
settings = { "model.sharing" = "none" }
"""


def write(place, text=HEAD + VARIANTS):
    path = place / "small.toml"
    path.write_text(text)
    return path


class Played:
    """In the place of processes: leaves the files that they would leave, and fails where it is told to."""

    def __init__(self):
        self.calls, self.drawn = [], []
        self.fails, self.tokens, self.logged = {}, {"train": 90, "validation": 30}, {}

    def __call__(self, _, command, log):
        module, *flags = command
        if module == "jaxode.data":
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("packing\n" + json.dumps({name: {"tokens": count} for name, count in self.tokens.items()}))
            self.calls.append(("data",))
            return self.fails.get("data")
        if module == "jaxode.training":
            return self.train(Path(flags[1]), flags[2:])
        # the one flag without a value
        plain = [flag for flag in flags if flag != "--controls"]
        values = dict(zip(plain[2::2], plain[3::2], strict=True))
        return self.infer(Path(flags[1]), values | {"--controls": "--controls" in flags})

    def train(self, recipe, flags):
        config = from_toml(Config, recipe)
        folder = Path(config.out)
        self.calls.append((folder.name, "train", *flags))
        shutil.copy(recipe, folder / "config.toml")
        if folder.name in self.fails:
            return self.fails[folder.name]
        record = {"step": 1, "loss": 1.0} | self.logged
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"step": 2, "x": 1}) + "\n")
        summary = {"parameters": 100, "trained_tokens": 256, "nats_per_token": 2.0, "tokens": self.tokens}
        (folder / "summary.json").write_text(json.dumps(summary))
        return None

    def infer(self, folder, flags):
        task = flags["--task"]
        self.calls.append((folder.name, task, flags.get("--steps") or flags["--at"]))
        if (folder.name, task) in self.fails:
            return self.fails[folder.name, task]
        if task == "calibrate":
            (folder / f"calibration-{flags['--steps']}.json").touch()
            return None
        config = from_toml(Config, folder / "config.toml")
        asked = [("euler", n) for n in dict.fromkeys([config.model.steps, *map(int, flags["--at"].split(","))])]
        found = sorted(int(path.stem.removeprefix("calibration-")) for path in folder.glob("calibration-*.json"))
        rows = [
            {"solver": solver, "steps": n, "block_evaluations": n, "nats_per_token": loss(config, solver, n)}
            for solver, n in [*asked, *(("calibrated", n) for n in found)]
        ]
        if flags["--controls"]:
            write_csv(folder / "controls.csv", [{"control": "prefix", "k": 2, "rise": 0.5 + config.train.seed}])
        if not config.data.corpus.startswith("tasks/"):
            write_csv(folder / "sweep.csv", rows)
            return None
        # easy questions are right at full depth, the ones that were trained on; the harder half of them are predicted
        answers = [
            row | {"schedule": "even", "difficulty": difficulty, "trained": difficulty < 3, "predicted": difficulty,
                   "exact": row["steps"] / 4 / difficulty, "nats_per_token": row["nats_per_token"] * difficulty}
            for row in rows for difficulty in (1, 2, 3)
        ]  # fmt: skip
        write_csv(folder / "answers.csv", answers)
        return None


def loss(config, solver, n):
    """2 at the steps of training, more at others, less with a calibration; 0.1 a seed on top."""
    away = 0.0 if n == (config.depth.steps or config.model.steps) else 1 / n
    return (
        2 + away * (0.5 if solver == "calibrated" else 1) + 0.1 * config.train.seed + (config.model.sharing == "none")
    )


FIRST = [
    ("data",),
    ("fixed-s0", "train"), ("fixed-s0", "calibrate", "3"), ("fixed-s0", "calibrate", "2"), ("fixed-s0", "sweep", "4,2"),
    ("fixed-s1", "train"), ("fixed-s1", "calibrate", "3"), ("fixed-s1", "calibrate", "2"), ("fixed-s1", "sweep", "4,2"),
    ("direct-2-s0", "train"), ("direct-2-s0", "sweep", "4,2"),
    ("direct-2-s1", "train"), ("direct-2-s1", "sweep", "4,2"),
    ("unshared-s1", "train"), ("unshared-s1", "sweep", "4"),
]  # fmt: skip
ROOT = Path("runs/studies/small")
