"""The ideas of the article on structure in networks, each with its honest form, its place and its test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Idea:
    """What the article says, what can be true of it, and where it is answered.

    Attributes:
      said: the idea.
      form: its honest form.
      where: module, or arm, in jaxnet.
      page: of ``docs/results``, whose comparisons answer it; empty: tests alone do, or it is refuted.
      asked: the titles of these comparisons begin so, or hold it.
      tests: what holds of it exactly, and is tested.
    """

    said: str
    form: str
    where: str
    page: str = ""
    asked: tuple[str, ...] = ()
    tests: str = ""


COMMANDS = {
    "exactness": "exactness_training --dataset mnist --num-seeds 16 --epochs 5",
    "structure": "structure_report --dataset mnist --epochs 5",
    "forgetting": "forgetting --dataset mnist --tasks 10 --num-seeds 12 --methods all",
    "guard": "guarded_training --dataset mnist",
    "guard_spike": "guarded_training --dataset mnist --drift spike --runs 0 --out checkpoints/guard_spike",
    "circuits": "circuits --dataset mnist --densities 0.01,0.02,0.05,0.1,1",
    "compress": "compress --dataset mnist --facts 500 --samples 2000",
    "reasoning": "reasoning_circuits --num-seeds 12 --width 64 --layers 4 --lr 2e-3 --samples 65536 "
    "--steps 8000 --last-steps 500 --shuffled-steps 1000 --look 32 --suites all --nodes 8",
    "levels": "level_transformer --num-seeds 12 --steps 2000",
    "growth": "indefinite_growth_controls --dataset mnist --num-seeds 16",
}
"""What makes a page, as ``make results`` does."""

IDEAS: dict[str, tuple[Idea, ...]] = {
    "Networks as complexes": (
        Idea(
            "a network should be exact: its maps compose to zero",
            "a penalty on W[k+1] W[k]; factors that keep it zero; projection to the nearest complex",
            "`homology.defect`, `factored`, `nearest`",
            "exactness",
            ("defect − none", "nearest − none", "factored − none"),
            "a true complex on the main path lets no signal pass but through what is beside it",
        ),
        Idea(
            "the penalty ‖h[k+1] h[k]ᵀ‖ makes features exact",
            "it is a Gram matrix: orthogonal or vanishing features",
            "`experiments.exactness_training`",
            "exactness",
            ("gram − none", "gram − l2"),
        ),
        Idea(
            "sections that agree on overlaps",
            "a loss of disagreeing windows; pairwise overlaps alone leave spurious classes",
            "`homology.gluing`",
            "exactness",
            ("gluing − none",),
            "their number by hand",
        ),
        Idea(
            "cohomology of a network shows its structure",
            "by dimension it says nothing; the bars of its layer maps do (ranks of products)",
            "`reach.rank_bars`",
            "structure",
            ("patches at bottlenecks", "layer at bottlenecks"),
            "planted intervals are recovered",
        ),
        Idea(
            "pages of a spectral sequence show convergence",
            "counts of pairs of the filtered complex",
            "`homology.pages`, `watch`, `settled`",
            tests="equal to persistence pairs of GUDHI; a run is settled after looks without change",
        ),
        Idea(
            "long exact sequences tie parts together",
            "ranks of the connecting maps",
            "`homology.les`",
            tests="dimensions by hand and on random complexes",
        ),
    ),
    "Protection": (
        Idea(
            "examples pull parameters apart; gains leak",
            "gradient interference and transfer between tasks",
            "`continual`",
            "forgetting",
            ("",),
        ),
        Idea(
            "old knowledge lies in directions that can be spared",
            "updates that act as zero on old inputs, row by row within the support of sparse layers",
            "`protect.row_basis`, `project_rows`",
            "forgetting",
            ("row-projection",),
            "‖dW x‖ ≤ 1e-5 ‖dW‖ ‖x‖ at energy 1, under SGD, Adam and AdamW",
        ),
        Idea(
            "zones with rates of their own",
            "a factor per weight on the update; a tenth of the gradient protects nothing under fresh Adam",
            "`optim.scale_updates`, `protect.zones`",
            "forgetting",
            ("zones",),
            "movement of a tenth of the gradient and of the update",
        ),
        Idea("low-rank updates keep structure", "a low-rank arm", "`protect`", "forgetting", ("low-rank",)),
        Idea(
            "a guard notices damage, blames and undoes it",
            "thresholds from the run's own noise; blame of groups; a blend fitted on held canaries",
            "`guard`",
            "guard",
            ("blend", "guard"),
            "contributions sum to the change of the loss within 0.2 %",
        ),
        Idea(
            "skip the batch that does harm",
            "batches whose update is not finite or far off",
            "`protect.skip_outlying`",
            "guard_spike",
            ("skip − nothing", "blend − skip"),
        ),
        Idea(
            "temporary damage is allowed",
            "canaries with a window to recover",
            "`guard`",
            tests="a loss within the window raises no alarm",
        ),
    ),
    "Circuits and compression": (
        Idea(
            "circuits are tiny, and smaller in sparser networks",
            "smallest set that recovers 90 % of a network's own gap, beside shuffled labels and no training",
            "`circuits.smallest`",
            "circuits",
            ("share of the weights in a circuit", "size, trained"),
            "planted circuits are found",
        ),
        Idea(
            "bridges carry several capabilities",
            "units of several circuits; do they predict damage better than norm and Fisher information?",
            "`circuits.bridges`",
            tests="values by hand; the circuits page has correlations with damage, norm and Fisher beside",
        ),
        Idea(
            "initialise with circuits",
            "train from a circuit's mask, against a random mask of its size",
            "`circuits.masked`",
            "circuits",
            ("accuracy of a circuits' mask",),
        ),
        Idea(
            "circuits are universal",
            "transplanted between seeds (failure expected)",
            "`circuits.transplant`",
            "reasoning",
            ("loss after a transplant",),
        ),
        Idea(
            "reasoning has circuits of its own",
            "eight token suites with matched controls",
            "`suites`, `transformer.components`",
            "reasoning",
            ("size of a circuit", "overlap"),
        ),
        Idea(
            "protect a circuit while the rest learns",
            "its weights frozen, against as many random ones",
            "`protect`",
            "reasoning",
            ("protected suite",),
        ),
        Idea(
            "small but critical weights; pruning in waves",
            "refit after every layer; scores with and without it",
            "`compress.prune`, `refit`",
            "compress",
            ("random + refit", "weight x activation"),
        ),
        Idea(
            "facts go before rules",
            "memorised labels against classes under pruning",
            "`experiments.compress`",
            "compress",
            ("facts",),
        ),
        Idea(
            "size finds, need not stay",
            "large and compressed against small from scratch",
            "`experiments.compress`",
            "compress",
            ("large", "small from scratch"),
        ),
        Idea(
            "bits where they matter",
            "measured sensitivity, a budget in bits, exactly spent",
            "`compress.allocate_bits`",
            "compress",
            ("sensitivity", "uniform bits"),
            "optimal against brute force",
        ),
    ),
    "Levels": (
        Idea("levels of sight with exact transitions", "", "arm `windows`", "levels", ("windows − plain",)),
        Idea(
            "residuals with d² = 0",
            "",
            "arms `coupling`, `revnet`",
            "levels",
            ("coupling − plain", "coupling − revnet"),
        ),
        Idea("attention that respects a kernel", "", "arm `invariant`", "levels", ("invariant − plain",)),
        Idea("gluing", "", "arm `gluing`", "levels", ("gluing − plain",)),
        Idea("exactness between levels", "", "arm `defect`", "levels", ("defect − plain",)),
        Idea("pages that have settled stay", "", "arm `pages`", "levels", ("pages − plain",)),
        Idea("a rate per level", "", "arm `level rates`", "levels", ("level rates − plain",)),
        Idea("local before global", "", "arm `curriculum`", "levels", ("curriculum − plain",)),
        Idea("a cell that never mixes", "", "arm `cell`", "levels", ("cell − plain",)),
        Idea("experts per kind of token", "", "arm `router`", "levels", ("router − plain",)),
        Idea("a memory that does not forget", "", "arm `memory`", "levels", ("memory − plain",)),
        Idea("all together", "", "arm `together`", "levels", ("together − plain",)),
        Idea(
            "search for the shape by its structure",
            "halving, and a structural score before training, against random search for as many steps",
            "`levels.search`",
            "levels",
            ("halving − random search", "structural score − random search"),
        ),
        Idea(
            "learn what to prune",
            "masks learned from the loss, against magnitude and refit",
            "`levels.compression`",
            "levels",
            ("learned masks",),
        ),
        Idea(
            "a linear compressor",
            "a linear bottleneck of as many weights, against magnitude and refit",
            "`levels.compression`",
            "levels",
            ("linear bottleneck",),
        ),
        Idea(
            "the shape must not change while training",
            "networks that grow keep their function at the moment of growth",
            "`growth`, `changes`",
            tests="refuted: every change of shape keeps moments and outputs (`tests/changes`), see growth",
        ),
    ),
}
"""By section: the article's ideas."""
