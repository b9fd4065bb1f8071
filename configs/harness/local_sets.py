"""Evaluation sets from local files, for the tasks beside this file: lines of JSON under the folder JAXODE_DATA."""

import json
import os
from pathlib import Path

import datasets

from jaxode.config import UserError


def lines(file, labels="", **_):
    """{"test": one document a line}; with `labels`, the line of that file of the same number is its "label".

    Raises:
        UserError: JAXODE_DATA is not set, or a file is missing or damaged.
    """
    root = os.environ.get("JAXODE_DATA", "")
    if not root:
        raise UserError(f"{file}: set the variable JAXODE_DATA to the folder that holds it")
    rows = [_parsed(path, number, line) for path, number, line in _read(Path(root) / file)]
    if labels:
        found = [line.strip() for _, _, line in _read(Path(root) / labels)]
        if len(found) != len(rows) or not all(label.isdigit() for label in found):
            raise UserError(f"{Path(root) / labels}: must hold a number for each of the {len(rows)} lines of {file}")
        rows = [{**row, "label": int(label)} for row, label in zip(rows, found, strict=True)]
    return {"test": datasets.Dataset.from_list(rows)}


def _read(path):
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); is JAXODE_DATA the right folder?") from None
    return [(path, number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _parsed(path, number, line):
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: no JSON ({error})") from None
