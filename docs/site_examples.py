"""The directive ``example``: a program of examples/ with its code, run, and what it printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent


class Example(SphinxDirective):
    """``{example} NAME``: ``arguments`` of its command line, ``shows`` a file that it wrote."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"arguments": directives.unchanged, "shows": directives.unchanged}

    def run(self) -> list[Any]:
        """The code, the command, what it printed, what it wrote."""
        name = self.arguments[0]
        source = ROOT / "examples" / f"{name}.py"
        self.env.note_dependency(str(source))
        arguments = self.options.get("arguments", "")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-m", f"examples.{name}", *shlex.split(arguments)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=600,
            )
            if done.returncode:
                raise self.error(f"examples.{name} ended with {done.returncode}: {done.stderr[-2000:]}")
            wrote = Path(folder, self.options["shows"]).read_text("utf-8") if "shows" in self.options else ""
        command = f"$ python -m examples.{name} {arguments}".rstrip()
        blocks = [(source.read_text("utf-8"), "python"), (f"{command}\n{done.stdout}", "text")]
        if wrote:
            blocks.append((wrote, "markdown"))
        return [nodes.literal_block(text, text, language=language) for text, language in blocks]


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive with Sphinx."""
    app.add_directive("example", Example)
    return {"parallel_read_safe": True}
