"""The shipped causal models in EleutherAI's harness, at several depths; and what the harness costs.

    JAXODE_DATA=DATA python benchmarks/harness.py
    JAXODE_DATA=DATA python benchmarks/harness.py --speed

Needs the extra `eval`, and the files that configs/harness/ names. The first keeps docs/results/harness.csv (a row a
model, depth, task and metric, with its standard error) and harness.png; the second docs/results/bench-harness.csv:
requests of LAMBADA a second through the harness over those of a bare loop of compiled forward passes over the same
tokens in batches of the same shapes. Bar: 0.8.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lm_eval  # pyright: ignore[reportMissingImports]
import numpy as np
from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from timing import RESULTS, report

from jaxode import UserError
from jaxode.evaluation.figures import Panel, panel_figure, read_csv
from jaxode.evaluation.harness import HarnessModel

TASKS = Path(__file__).resolve().parent.parent / "configs" / "harness"
MODELS = ("books-causal", "books-causal-elastic")
STEPS = (12, 6, 4, 3, 2)
NAMES = ("lambada", "piqa", "arc_challenge", "boolq", "copa", "blimp")
CHANCE = {"piqa": 0.5, "arc_challenge": 0.25, "boolq": 0.5, "copa": 0.5, "blimp": 0.5}


def results(limit: int | None, names: tuple[str, ...]) -> None:
    """Every model at every depth on every task; rows that are there already are not measured again."""
    kept = RESULTS / "harness.csv"
    rows: list[dict[str, Any]] = read_csv(kept) if kept.exists() else []
    tasks = TaskManager(include_path=str(TASKS))
    for name in MODELS:
        for steps in STEPS:
            model = None
            for task in names:
                if any((row["model"], row["steps"], row["task"]) == (name, steps, task) for row in rows):
                    continue
                model = model or HarnessModel(name, steps=steps)
                try:
                    found = lm_eval.simple_evaluate(
                        model=model, tasks=[f"local_{task}"], task_manager=tasks, limit=limit, bootstrap_iters=1000
                    )
                except UserError as error:  # an answer that is longer than what the model reads
                    print(f"{name}, {task}: {error}", flush=True)
                    continue
                assert found is not None
                values = found["results"][f"local_{task}"]
                count = found["n-samples"][f"local_{task}"]["effective"]
                for key in [key for key in values if key.endswith(",none") and "stderr" not in key]:
                    metric = key.removesuffix(",none")
                    error = values.get(f"{metric}_stderr,none")
                    rows.append(
                        {
                            "model": name,
                            "steps": steps,
                            "solver": model.depth.solver,
                            "task": task,
                            "metric": metric,
                            "value": values[key],
                            "standard_error": error,
                            "items": count,
                        }
                    )
                report("harness", rows)
    figure(rows)


def figure(rows: list[dict[str, Any]]) -> None:
    """Accuracy against steps, or LAMBADA's perplexity, a panel a task."""
    panels = []
    for task in NAMES:
        metric, series = "perplexity" if task == "lambada" else "acc", {}
        if not any(row["task"] == task for row in rows):
            continue
        for name in MODELS:
            points = [row for row in rows if (row["model"], row["task"], row["metric"]) == (name, task, metric)]
            series[name] = ([row["steps"] for row in points], [row["value"] for row in points])
        if task in CHANCE:
            series["chance"] = (list(STEPS), [CHANCE[task]] * len(STEPS))
        panels.append(Panel(series, "block evaluations", f"{task}: {metric}"))
    panel_figure(RESULTS / "harness.png", panels, "zero-shot, by steps")


def speed(count: int = 512, rounds: int = 5) -> None:
    """The harness' requests against the same batches without it."""
    model = HarnessModel("books-causal", steps=4)
    text = TaskManager(include_path=str(TASKS)).load(["local_lambada"])["tasks"]["local_lambada"]
    pairs = [(text.doc_to_text(doc), " " + text.doc_to_target(doc).strip()) for doc in list(text.test_docs())[:count]]
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    batches: list[tuple[Any, ...]] = []
    from jaxode.evaluation.harness import likelihood

    program = likelihood.continuation_nats

    def kept(params: Any, *inputs: Any, **static: Any) -> Any:
        batches.append((inputs[0], inputs[1]))
        return program(params, *inputs, **static)

    likelihood.continuation_nats = kept  # what goes through the model
    model.loglikelihood(requests, disable_tqdm=True)
    likelihood.continuation_nats = program
    architecture, depth = model.loaded.architecture, model.depth

    @jax.jit
    def bare(params: Any, tokens: jax.Array, segments: jax.Array) -> jax.Array:
        logits = architecture.bind(params)(tokens, depth, segments=segments).logits
        return jnp.max(jax.nn.log_softmax(logits), axis=-1)

    def loop() -> None:
        for tokens, segments in batches:
            jax.block_until_ready(bare(model.loaded.params, jnp.asarray(tokens), jnp.asarray(segments)))

    def through() -> None:
        model.loglikelihood(requests, disable_tqdm=True)

    seconds: dict[str, list[float]] = {"bare": [], "harness": []}
    for one in (loop, through):
        one()
    for _ in range(rounds):
        for name, one in (("bare", loop), ("harness", through)):
            start = time.perf_counter()
            one()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    report(
        "bench-harness",
        [
            {"loop": name, "requests_per_second": count / value, "over_bare": medians["bare"] / value}
            for name, value in medians.items()
        ],
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--speed", action="store_true", help="what the harness costs, instead of results")
    parser.add_argument("--limit", type=int, help="documents of a task; all when absent")
    parser.add_argument("--tasks", default=",".join(NAMES))
    told = parser.parse_args()
    if told.speed:
        speed()
    else:
        results(told.limit, tuple(told.tasks.split(",")))


if __name__ == "__main__":
    main()
