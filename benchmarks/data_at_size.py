"""What does a large corpus take to prepare, in memory and time, and is it read as fast as a model trains?

    python benchmarks/data_at_size.py --megabytes 200 2000

Writes a corpus of Parquet files out of lines of the standard library's sources, shuffled and numbered so that no two
documents are the same, prepares it by the command that a person would run, then reads training batches back and takes
training steps of the default recipe. Every part is a process by itself; its peak memory is the system's own count
(ru_maxrss). Keeps docs/results/bench-data-at-size.csv, a line a size (those of other calls stay): a peak that does not
grow from size to size does not depend on it. The corpus and all that is made of it are removed at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from timing import RESULTS, report
from tqdm import tqdm

from jaxode.data.documents import read_text
from jaxode.data.stdlib import stdlib_files, stdlib_folder

ROOT = Path(__file__).resolve().parent.parent
NAME = "bench-data-at-size"
FILE_BYTES = 200_000_000
GROUP = 5_000
"""Rows of a row group."""

READ = """
import json, sys, time
from jaxode.config import Config, parse
from jaxode.data import prepare
config = parse(Config, sys.argv[1:])
start = time.perf_counter()
data = prepare(config.data, config.model.length, config.model.learns)
opened = time.perf_counter() - start
batches = data.train(config.train.batch_size, 0)
for _ in range(20): next(batches)
start, count = time.perf_counter(), 3000
for _ in range(count): next(batches)
seconds = time.perf_counter() - start
batches.close()
print(json.dumps([opened, count * config.train.batch_size * config.model.length / seconds]))
"""


def write_corpus(folder: Path, size: int) -> None:
    """Parquet files of together `size` bytes of text."""
    lines = [
        line
        for path in stdlib_files(stdlib_folder())
        for line in read_text(path).splitlines(keepends=True)
        if len(line) > 20
    ]
    rng = random.Random(0)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    number = done = part = 0
    with tqdm(total=size, desc="writing the corpus", unit="B", unit_scale=True, disable=None) as bar:
        while done < size:
            with pq.ParquetWriter(folder / f"part-{part:05}.parquet", schema) as writer:
                written = 0
                while written < FILE_BYTES and done + written < size:
                    texts = []
                    for _ in range(GROUP):
                        number += 1
                        texts.append(f"{number}\n" + "".join(rng.choices(lines, k=rng.randrange(20, 90))))
                    ids = list(range(number - GROUP, number))
                    writer.write_table(pa.table({"id": ids, "text": texts}, schema), row_group_size=GROUP)
                    written += sum(len(text.encode()) for text in texts)
                    bar.update(sum(map(len, texts)))
            part, done = part + 1, done + written


def measured(arguments: list[str]) -> tuple[float, float, float, str]:
    """Seconds, seconds of all cores together, peak of resident memory in MB, and the output of a process, which starts
    no others.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{arguments}: ended with {process.returncode}")
        out.seek(0)
        cpu = usage.ru_utime + usage.ru_stime
        return time.perf_counter() - start, cpu, usage.ru_maxrss * 1024 / 1e6, out.read().decode()


def measure(size: int, place: Path, steps: int) -> dict[str, Any]:
    """One size, in a folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        text = folder / "text"
        text.mkdir()
        write_corpus(text, size)
        flags = ["--data.files", str(text), "--data.cache", str(folder / "cache")]
        seconds, cpu, peak, out = measured(["-m", "jaxode.data", *flags])
        stats = json.loads(out)
        total = {name: sum(split[name] for split in stats.values()) for name in ("documents", "tokens", "bytes")}
        _, _, read_peak, out = measured(["-c", READ, *flags])
        opened, read = json.loads(out)
        run = folder / "run"
        some = ["--train.updates", str(steps), "--train.log-every", str(steps // 2), "--train.no-sweep"]
        some += ["--train.validate-every", "0", "--train.final-batches", "1", "--out", str(run)]
        measured(["train.py", *flags, *some])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        # the first half compiles
        consumed = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line][-1]
        return {
            "text_mb": round(total["bytes"] / 1e6),
            "documents": total["documents"],
            "tokens_m": round(total["tokens"] / 1e6, 1),
            "prepare_s": round(seconds),
            "prepare_mb_per_s": round(total["bytes"] / 1e6 / seconds, 2),
            "prepare_cpu_mb_per_s": round(total["bytes"] / 1e6 / cpu, 2),
            "prepare_peak_mb": round(peak),
            "open_s": round(opened, 1),
            "read_peak_mb": round(read_peak),
            "read_tokens_per_s": round(read),
            "train_tokens_per_s": round(consumed),
            "read_over_train": round(read / consumed, 1),
            "cores": os.cpu_count(),
        }
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure every size, print the table, keep it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, nargs="+", default=[200, 2000], help="sizes of the text")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="on a disk with 6 times the room"
    )
    parser.add_argument("--steps", type=int, default=20, help="updates of the default recipe to compare with")
    arguments = parser.parse_args()
    for megabytes in arguments.megabytes:
        row = measure(megabytes * 1_000_000, arguments.folder, arguments.steps)
        kept = [other for other in measured_before() if other["text_mb"] != str(row["text_mb"])]
        report(NAME, sorted([*kept, row], key=lambda row: int(row["text_mb"])))


def measured_before() -> list[dict[str, Any]]:
    """Lines of other calls."""
    path = RESULTS / f"{NAME}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
