"""Files of the repository as pages: README is the front page, and what a page links outside docs/ comes along.

So every link works where the site is opened from a disk, without the repository beside it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""What has a page of its own; other files are shown as they are."""
NOTEBOOKS = ROOT / "docs/notebooks"
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FIGURE = re.compile(r'(<img [^>]*src="([^"]+\.png)"[^>]*>)')
BOOSTS = {"": 2, "reference": 0.5, "reference/configuration.md": 2, "reference/commands.md": 2}
"""By folder or page: a search names pages that explain, settings and commands before the API, which has every word."""
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"
"""Files are found by name in the repository; a search of the documents is for what they say."""
LANGUAGES = {".py": "python", ".toml": "toml", ".cff": "yaml", ".jsonl": "json"}


def on_files(files: Files, config: Any) -> Files:
    """Add the front page, the notebooks, and a page for each file of the repository that any page links."""
    for source, page in PAGES.items():
        _add(files, config, page, (ROOT / source).read_text(encoding="utf-8"))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        _add_notebook(files, config, path)
    waiting = [(_repository_path(file.src_uri), file.content_string) for file in files.documentation_pages()]
    while waiting:
        source, text = waiting.pop()
        for match in LINK.finditer(text):
            target = _resolve(source, match[1])
            page = _page(target)
            if target.startswith("..") or not (ROOT / target).exists() or files.get_file_from_path(page):
                continue
            shown = _shown(ROOT / target)
            _add(files, config, page, shown)
            waiting.append((target, shown))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    source, here = _repository_path(page.file.src_uri), os.path.dirname(page.file.src_uri)
    page.meta.setdefault("search", {"boost": BOOSTS.get(page.file.src_uri, BOOSTS.get(here, 1))})

    def rewritten(match: re.Match[str]) -> str:
        target = _resolve(source, match[1])
        if not (ROOT / target).exists():
            return match[0]
        return os.path.relpath(_page(target), here or ".") + (match[2] or "")

    # GitHub reads two fences without a line between them, Python-Markdown does not
    return LINK.sub(rewritten, markdown).replace("\n```\n```", "\n```\n\n```")


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Open a figure at its full size where it is clicked."""
    return FIGURE.sub(r'<a href="\2">\1</a>', html)


def _add(files: Files, config: Any, path: str, content: str | bytes) -> None:
    files.append(File.generated(config, path, content=content))


def _repository_path(page: str) -> str:
    """Where the text of a page stands in the repository."""
    for source, name in PAGES.items():
        if page == name:
            return source
    if page.startswith("repository/"):
        return page.removeprefix("repository/").removesuffix(".md")
    return f"docs/{page}"


def _page(target: str) -> str:
    """The page, or the file of the site, that stands for a file of the repository."""
    if target in PAGES:
        return PAGES[target]
    if target.endswith(".ipynb"):
        target = target.removesuffix(".ipynb") + ".md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/") + ("/README.md" if (ROOT / target).is_dir() else "")
    return f"repository/{target}.md"


def _resolve(source: str, link: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(source), link))


def _shown(path: Path) -> str:
    """A page with a file's text, or with those of a folder's files by name."""
    title = f"# {path.relative_to(ROOT)}\n\n"
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    if path.is_file():
        language = LANGUAGES.get(path.suffix, "text")
        return f"{HIDDEN}{title}````{language}\n{path.read_text(encoding='utf-8')}\n````\n"
    names = sorted(item.name for item in path.iterdir() if item.is_file() and not item.name.startswith("__"))
    if path.is_relative_to(ROOT / "docs"):
        return title + "".join(f"- [{name}]({name})\n" for name in names)
    return HIDDEN + title + "".join(f"- [{name}]({path.name}/{name})\n" for name in names)


def _add_notebook(files: Files, config: Any, path: Path) -> None:
    """A page with the cells of a notebook, what they printed and the figures they drew, which are files beside it."""
    parts = [f"*This page is `docs/notebooks/{path.name}` as it was run.*"]
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        printed = "".join("".join(out.get("text", ())) for out in cell["outputs"] if out["output_type"] == "stream")
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
        drawn = [out["data"]["image/png"] for out in cell["outputs"] if "image/png" in out.get("data", {})]
        for place, picture in enumerate(drawn):
            name = f"{path.stem}-{number}-{place}.png"
            _add(files, config, f"notebooks/{name}", base64.b64decode("".join(picture)))
            parts.append(f"![What the cell above draws]({name})")
    _add(files, config, f"notebooks/{path.stem}.md", "\n\n".join(parts))
