from . import plots, report, run, shown, terminal
from .cluster import WorkerFlags
from .command import parse, run_main
from .compare import Comparison, Question, compare
from .flags import (
    BatchFlags,
    DataFlags,
    DocumentFlags,
    ExtremaFlags,
    Flags,
    NetworkFlags,
    RunFlags,
    SeedFlags,
    TrainFlags,
    changed,
    flag_name,
    option,
    settled,
)
from .run import Run
from .stages import Stage, Trained, train_stages
from .study import Controls, Page, Study, run_arms
from .summary import Document, Found, draw_comparisons, entries

__all__ = [
    "BatchFlags",
    "Comparison",
    "Controls",
    "DataFlags",
    "Document",
    "DocumentFlags",
    "ExtremaFlags",
    "Flags",
    "Found",
    "NetworkFlags",
    "Page",
    "Question",
    "Run",
    "RunFlags",
    "SeedFlags",
    "Stage",
    "Study",
    "TrainFlags",
    "Trained",
    "WorkerFlags",
    "changed",
    "compare",
    "draw_comparisons",
    "entries",
    "flag_name",
    "option",
    "parse",
    "plots",
    "report",
    "run",
    "run_arms",
    "run_main",
    "settled",
    "shown",
    "terminal",
    "train_stages",
]
