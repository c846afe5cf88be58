from . import plots, report, run, shown, terminal
from .cluster import WorkerFlags
from .command import parse, run_main
from .compare import Comparison, Question, compare
from .flags import (
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
from .found import Document, Found
from .run import Run, run_arms, run_study
from .stages import Stage, Trained, train_stages
from .study import Controls, Study
from .summary import entries

__all__ = [
    "Comparison",
    "Controls",
    "DataFlags",
    "Document",
    "DocumentFlags",
    "ExtremaFlags",
    "Flags",
    "Found",
    "NetworkFlags",
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
    "entries",
    "flag_name",
    "option",
    "parse",
    "plots",
    "report",
    "run",
    "run_arms",
    "run_main",
    "run_study",
    "settled",
    "shown",
    "terminal",
    "train_stages",
]
