"""A study of your own: does Erdős–Rényi beat uniform allocation where few weights exist?

The template of its document lies beside it; docs/experiments.md explains the parts.

    python -m examples.own_study --doc own_study.md
"""

from dataclasses import dataclass
from pathlib import Path

import jaxnet
from jaxnet import lab

ARMS = ("erdos-renyi", "uniform")


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """Two ways to share out a density over the layers, on the same seeds."""

    density: float = lab.option(0.05, "fraction of the weights that exist", "in (0, 1]", fraction=True)
    epochs: int = lab.option(20, "of training", "epochs", least=1)
    batch_size: int = lab.changed(lab.TrainFlags, "batch_size", 16)
    num_seeds: int = lab.changed(lab.SeedFlags, "num_seeds", 12)
    out: str = lab.changed(lab.RunFlags, "out", "checkpoints/own_study")


def make_specs(config, dataset):
    """The network of each arm."""
    return [lab.run.network_spec(dataset, None, density=config.density, allocation=arm) for arm in ARMS]


def settle(config, dataset):
    """What is wrong is said before anything is written; the faster kernel is chosen."""
    lab.run.check_samples(config, dataset)
    return lab.run.resolve_kernel(config, make_specs(config, dataset)[0], len(ARMS) * config.num_seeds)


def run(run):
    """Trains both arms side by side in one program; judges them on the test set."""
    import jax
    import optax

    config, specs = run.config, make_specs(run.config, run.dataset)
    task = run.task(specs[0])  # with the kernel, the batches and the augmentation of the flags
    optimizer = optax.adam(config.lr)  # one for both arms, which are one program

    def start(key, before):
        key_mask, key_init = jax.random.split(key)
        drawn = [jaxnet.init(spec, key_mask=key_mask, key_init=key_init) for spec in specs]
        nets = [jaxnet.Net.of(*network, optimizer) for network in drawn]
        return tuple(jaxnet.init_state(net) for net in jaxnet.changes.with_equal_room(*nets))

    stage = lab.Stage("train", config.epochs, task, start, arms=ARMS)
    state = lab.train_stages(run, [stage])["train"].kept
    accuracy, halves = run.judge(task, state.best_params, state.net.structure, run.split("test"))
    found = lab.entries(run.seeds, ARMS, diverged=state.diverged, accuracy=accuracy, accuracy_halves=halves)
    return lab.Found(found, [lab.Question(*ARMS, "accuracy")])


DOCUMENT = lab.Document(Path(__file__).with_suffix(".md"))
STUDY = lab.Study("own_study", Config, run, settle=settle, document=DOCUMENT, package="examples")

if __name__ == "__main__":
    STUDY.command(__doc__)
