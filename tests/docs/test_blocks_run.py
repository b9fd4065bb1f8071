"""Blocks of Python on the pages run as they stand there, those of a page one after the other."""

import re

import pytest
from commands import PAGES, ROOT

LEFT = {
    "docs/evaluation.md": "tasks that are not ours; tests/evaluation/test_harness.py runs small ones",
    "docs/extending.md": "parts of plug-ins; tests/test_extending.py runs those of examples/plugins",
    "docs/looped-models.md": "a model of 1.4 B parameters; tests/interop/test_families.py runs small ones",
}
"""Page -> why its blocks are not run here."""


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


WITH_BLOCKS = [page for page in PAGES if blocks(page)]


def test_what_is_left_has_blocks():
    assert set(LEFT) <= set(WITH_BLOCKS)


@pytest.mark.slow
@pytest.mark.broad
@pytest.mark.parametrize("page", [page for page in WITH_BLOCKS if page not in LEFT])
def test_blocks_run(page, checkout):
    from places import TEXTS, albert, trained

    albert(2)(checkout / "folder" if page == "docs/decoding.md" else checkout / "labels")
    (checkout / "runs").mkdir()
    trained()(checkout / "runs" / "NAME")
    names = {"texts": TEXTS[:4]}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
