"""Is depth earned, and what does it cost to skip it? One recipe trained at n = N, N/2, N/4 steps, each run at every n.

    python benchmarks/direct_depth.py configs/wikitext2-causal.toml
    python benchmarks/direct_depth.py configs/books-causal-small.toml 12 6     (only these)

Trains what is missing under runs/, resumes what was interrupted, then writes docs/results/NAME.csv and NAME.png:
validation loss against block evaluations for the model trained at full depth, beside the same model trained directly
at fewer steps over the same interval, on the same batches.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from jaxode.config import Config, from_toml
from jaxode.evaluation.figures import line_figure, read_csv, table, write_csv
from jaxode.tracking import read_jsonl

ROOT = Path(__file__).resolve().parent.parent


def train(recipe: Path, steps: int) -> Path:
    """The finished run of this recipe trained at `steps`."""
    out = ROOT / "runs" / f"{recipe.stem}-{steps}"
    if not (out / "sweep.csv").exists():
        started = (out / "checkpoints").exists()
        how = ["--resume"] if started else ["--config", str(recipe), "--depth.steps", str(steps)]
        subprocess.run([sys.executable, str(ROOT / "train.py"), "--out", str(out), *how], check=True)
    return out


def main(recipe: Path, depths: tuple[int, ...] = ()) -> None:
    """Train, collect, write the table, the CSV and the figure."""
    full = from_toml(Config, recipe).model.steps
    rows, series = [], {}
    for steps in depths or (full, full // 2, full // 4):
        run = train(recipe, steps)
        speed = [
            record["tokens_per_second"] for record in read_jsonl(run / "metrics.jsonl") if "tokens_per_second" in record
        ]
        measured = read_csv(run / "sweep.csv")
        for row in measured:
            rows.append(
                {
                    "trained_at": steps,
                    "run_at": row["steps"],
                    "block_evaluations": row["block_evaluations"],
                    "nats_per_token": row["nats_per_token"],
                    "training_tokens_per_second": sorted(speed)[len(speed) // 2],
                }
            )
        if steps == full:
            series[f"trained at {full}, run at n"] = (
                [row["block_evaluations"] for row in measured],
                [row["nats_per_token"] for row in measured],
            )
    direct = [row for row in rows if row["trained_at"] == row["run_at"]]
    series["trained directly at n"] = (
        [row["block_evaluations"] for row in direct],
        [row["nats_per_token"] for row in direct],
    )
    target = ROOT / "docs" / "results" / recipe.stem
    write_csv(target.with_suffix(".csv"), rows)
    line_figure(
        target.with_suffix(".png"),
        series,
        xlabel="block evaluations",
        ylabel="validation loss (nats per token)",
        title=recipe.stem,
    )
    print(table(rows, list(rows[0])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="config of a training run")
    parser.add_argument("depths", nargs="*", type=int, help="steps to train at; N, N/2, N/4 when absent")
    arguments = parser.parse_args()
    main(arguments.recipe, tuple(arguments.depths))
