"""The blocks of the pages that show what they print, run in order.

``python -m tests.test_tutorial [PAGE]`` writes what they print into the pages, or into one.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path

import pytest

PAGES = [Path(__file__).parents[1] / "docs" / f"{name}.md" for name in ("tutorial", "own_model", "protect")]
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)
NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")


def outputs(text: str, folder: Path) -> list[str]:
    """What the blocks print, one after the other in one namespace."""
    names: dict = {}
    printed = []
    for code, _ in BLOCK.findall(text):
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, "page", "exec"), names)
        printed.append("\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n")
    return printed


def agree(shown: str, printed: str) -> bool:
    """Equal texts; numbers with a point may differ a little, as other processors round otherwise."""
    # columns are as wide as their numbers
    words = [re.sub("--+", "--", NUMBER.sub("0.0", text)).split() for text in (shown, printed)]
    if words[0] != words[1]:
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= max(0.03, 0.1 * abs(float(a))) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_prints_what_it_shows(page, tmp_path, standard_promotion):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall("```python", text)) == len(BLOCK.findall(text))
    for (code, shown), printed in zip(BLOCK.findall(text), outputs(text, tmp_path), strict=True):
        assert agree(shown, printed), f"{code}\nprinted\n{printed}\nand the page shows\n{shown}"


if __name__ == "__main__":
    for path in PAGES:
        if path.stem in (sys.argv[1:] or path.stem):
            page = path.read_text(encoding="utf-8")
            with tempfile.TemporaryDirectory() as place:
                printed = outputs(page, Path(place))
            for (code, shown), out in zip(BLOCK.findall(page), printed, strict=True):
                old = f"```python\n{code}```\n\n```text\n{shown}```"
                page = page.replace(old, f"```python\n{code}```\n\n```text\n{out}```")
            path.write_text(page, encoding="utf-8")
