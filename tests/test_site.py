"""What `make docs` checks of the built site (docs/check_site.py); it needs no Sphinx."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "docs" / "check_site.py"


def test_dead_links_and_files_from_the_network_are_found(tmp_path):
    spec = importlib.util.spec_from_file_location("check_site", SCRIPT)
    assert spec is not None and spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1>')
    page = '<a href="other.html#here">a</a><a href="https://example.org">b</a><img src="data:image/png,x">'
    (tmp_path / "index.html").write_text(page)
    assert check.problems(tmp_path) == []
    page += '<a href="gone.html">c</a><a href="other.html#there">d</a><script src="https://example.org/x.js">'
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "x.css").write_text("@import url(https://example.org/font.css);")
    found = "\n".join(check.problems(tmp_path))
    assert len(found.splitlines()) == 4
    for what in ("gone.html leads nowhere", "no such place", "loads https://example.org/x.js", "x.css"):
        assert what in found
