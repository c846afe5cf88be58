"""The run of ``experiments.optimal_bootstrap``: stages, checkpoints, what is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from experiments import _runtime
from experiments._bootstrap_report import PLOTS
from experiments._bootstrap_summary import summarise
from experiments._population import (
    Clock,
    Phase,
    evaluate_all,
    load_progress,
    make_split,
    run_phase,
)
from experiments._runtime import resolve_kernel
from jaxnet import optim, train
from jaxnet.changes import bootstrap, random_like, shuffle_values
from jaxnet.data import Dataset
from jaxnet.errors import InputError
from jaxnet.files import json_safe
from jaxnet.kernels import product
from jaxnet.keys import INIT, MASK, OTHER_INIT, OTHER_MASK, SHUFFLE, key_of, keys_of, purpose
from jaxnet.masks import allocate
from jaxnet.nn import mlp
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.programs import ONCE
from jaxnet.provenance import provenance
from jaxnet.records import RunFolder
from jaxnet.topology import Topology
from jaxnet.train import Net, Task, TrainState
from jaxnet.types import Array, Bool, Float, Int, Key, PyTree

if TYPE_CHECKING:
    from experiments.optimal_bootstrap import Config

ARMS = ("bootstrapped", "random", "shuffled", "fresh values", "random, unequal")
"""What is compared at each scale, trained as one batch; the next scale is built from the first."""

UNRELATED = ("random, unequal",)
"""Arms that take nothing from the smaller network, not even a number of weights."""

Networks = tuple[Params, Structure]
Small = tuple[Params, Structure, Bool[Array, "seed"]]
"""What a scale is built from: networks, and which of them diverged."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A number of epochs of all seeds, in all arms.

    Attributes:
      name: of the stage; part of rows and checkpoint names.
      sizes: units per layer.
      epochs: how many.
      grown: whether its networks are built from those of the stage before.
    """

    name: str
    sizes: tuple[int, ...]
    epochs: int
    grown: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms; none where a stage has one network per seed."""
        return ARMS if self.grown else ()


class Result(flax.struct.PyTreeNode):
    """What is kept of a finished stage; leaves ``(network, ...)``, arm after arm.

    Of a network that diverged both accuracies are NaN.

    Attributes:
      accuracy: reported: test accuracy of the best epoch (fraction).
      watched: accuracy of the best epoch on the watched samples.
      epoch: that epoch, from 1.
      nonzeros: ``(network, layer)``, weights that exist.
    """

    accuracy: Float[Array, "network"]
    watched: Float[Array, "network"]
    epoch: Int[Array, "network"]
    nonzeros: Int[Array, "network layer"]


def make_stages(config: Config, dataset: Dataset) -> tuple[Stage, ...]:
    """The search for the smallest network that learns, then the three scales."""
    num_in, classes = dataset.num_features, dataset.num_classes
    medium, fine = config.widths
    tried = [(num_in, hidden, classes) for hidden in config.hidden] + [(num_in, classes)]
    return (
        *(Stage(f"search-{'-'.join(map(str, sizes))}", sizes, config.search_epochs) for sizes in tried),
        Stage("seed", (num_in, classes), config.epochs),
        Stage("medium", (num_in, medium, classes), config.epochs, grown=True),
        Stage("fine", (num_in, fine, medium, classes), config.epochs, grown=True),
    )


def make_spec(config: Config, sizes: tuple[int, ...]) -> NetworkSpec:
    """The specification of a stage's networks; its density is that of the random masks.

    Raises:
      InputError: the density is too low for the sizes, or they are too large.
    """
    init = config.init or ("dense-fan-in" if config.protocol == "seed" else "sparse-fan-in")
    try:
        return NetworkSpec(sizes, config.density, config.activation, init=init)
    except ValueError as error:
        raise InputError(f"{'-'.join(map(str, sizes))}: {error}") from None


def grow(spec: NetworkSpec, params: Params, structure: Structure, key: Key) -> tuple[Networks, ...]:
    """All arms of a scale for one seed, in the order of :data:`ARMS`."""
    purposes = MASK, INIT, OTHER_MASK, OTHER_INIT, SHUFFLE
    mask, init, other_mask, other_init, shuffle = (purpose(key, what) for what in purposes)
    grown, connected = bootstrap(spec, params, structure, key_mask=mask, key_init=init)
    topologies = [t for t in connected.weights if isinstance(t, Topology)]
    # as the original compared: without the weights that the features add
    plain = allocate(spec.sizes, spec.density)
    return (
        (grown, connected),
        random_like(spec, connected, key_mask=other_mask, key_init=other_init),
        (shuffle_values(grown, connected, key_shuffle=shuffle), connected),
        (mlp.init_params(spec, topologies, key_init=init), connected),
        random_like(spec, connected, nonzeros=plain, key_mask=other_mask, key_init=other_init),
    )


class BootstrapRun:
    """One run in one folder."""

    def __init__(self, config: Config, folder: RunFolder, dataset: Dataset) -> None:
        self.config, self.folder, self.dataset = config, folder, dataset
        self.watch_part: Literal["val", "test"] = "test" if config.protocol == "seed" else "val"
        self.stages = make_stages(config, dataset)
        self.seeds = range(config.seed, config.seed + config.num_seeds)
        self.keys = keys_of(self.seeds)
        self.clock = Clock()
        self.train = make_split(dataset, "train")
        self.watch = make_split(dataset, self.watch_part)
        self.optimizer = optim.dual_rate_adam(config.lr, config.lr)

    def run(self) -> dict[str, Any]:
        """Trains what is still to do and writes the summary."""
        likes: dict[str, Callable[[], tuple[TrainState, PyTree]]] = {
            stage.name: partial(self.like, number) for number, stage in enumerate(self.stages)
        }
        at = load_progress(self.folder, likes, self.clock)
        self.folder.write_json("provenance.json", self.provenance())
        first = [stage.name for stage in self.stages].index(at[0]) if at else 0
        done: dict[str, Result] = at[3]["done"] if at else {}
        small: Small | None = None
        for number, stage in enumerate(self.stages[first:], first):
            if at is not None and number == first:
                _, epoch, state, _ = at
            else:
                args = (self.keys,) if small is None or not stage.grown else (self.keys, *small)
                epoch = 0
                state = self.clock.compiled(self.start(number), *args, options=ONCE)(*args)
            state = self.train_stage(number, state, epoch, done)
            done = {**done, stage.name: self.measure(stage, state)}
            # on the host: a slice of a device's array would be compiled for every shape
            small = self.first_arm(jax.device_get(state))
        host = jax.device_get(done)
        summary: dict[str, Any] = json_safe(
            {
                "experiment": "optimal_bootstrap",
                "config": self.folder.read_json("config.json"),
                "kernel": self.config.kernel,
                "provenance": self.provenance(),
                **summarise(self.config, self.stages, host, self.folder.read_rows()),
                "timing": self.clock.as_dict(),
            }
        )
        self.folder.write_json("summary.json", summary)
        return summary

    def start(self, number: int) -> Callable[..., TrainState]:
        """Builds ``start(keys[, params, structure, diverged])``: the state of a stage's networks.

        What is built from a diverged network has diverged too: its features are those of an earlier
        epoch, or of none.
        """
        stage = self.stages[number]
        spec = make_spec(self.config, stage.sizes)

        def ready(params: Params, structure: Structure) -> TrainState:
            return train.init_state(Net.of(params, structure, self.optimizer))

        def one(key: Key, *small: Any) -> tuple[Networks, ...]:  # small: params, structure
            key = jax.random.fold_in(key, number)
            if stage.grown:
                return grow(spec, small[0], small[1], key)
            return (mlp.init(spec, key_mask=purpose(key, MASK), key_init=purpose(key, INIT)),)

        def all_networks(keys: Key, *small: Any) -> TrainState:
            arms = jax.vmap(one)(keys, *small[:2])
            networks = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *arms)
            state: TrainState = jax.vmap(ready)(*networks)
            if not stage.grown:
                return state
            inherited = [small[2] & (arm not in UNRELATED) for arm in stage.arms]
            return state.replace(diverged=jnp.concatenate(inherited))

        return all_networks

    def like(self, number: int) -> tuple[TrainState, PyTree]:
        """Shapes of the state and the extras of a stage, without computing them."""
        small: tuple[Any, ...] = ()
        if self.stages[number].grown:
            state, _ = self.like(number - 1)
            small = jax.eval_shape(self.first_arm, state)
        state = jax.eval_shape(self.start(number), self.keys, *small)
        done = {stage.name: self.like_result(stage) for stage in self.stages[:number]}
        return state, {"done": done}

    def like_result(self, stage: Stage) -> Result:
        """Shapes of what is kept of a stage."""
        networks = len(self.seeds) * (len(stage.arms) or 1)
        real, whole = (jax.ShapeDtypeStruct((networks,), dtype) for dtype in (jnp.float32, jnp.int32))
        layers = jax.ShapeDtypeStruct((networks, len(stage.sizes) - 1), jnp.int32)
        return Result(cast(Any, real), cast(Any, real), cast(Any, whole), cast(Any, layers))

    def first_arm(self, state: TrainState) -> Small:
        """What the next scale is built from: the best epoch, or the last as in the original."""
        params = state.net.params if self.config.protocol == "seed" else state.best_params
        whole = params, state.net.structure, state.diverged
        small: Small = jax.tree.map(lambda leaf: leaf[: len(self.seeds)], whole)
        return small

    def train_stage(self, number: int, state: TrainState, epoch: int, done: dict[str, Result]) -> TrainState:
        """Trains the rest of a stage."""
        stage = self.stages[number]
        phase = Phase(
            name=stage.name,
            epochs=stage.epochs,
            task=self.task(stage),
            train=self.train,
            watch=self.watch,
            watch_name="validation" if self.watch_part == "val" else "test",
            key_data=jax.random.fold_in(key_of(self.config.data_seed), number),
            arms=stage.arms,
        )
        return run_phase(
            phase, state, self.seeds, self.folder, self.clock, first_epoch=epoch, extra={"done": done}
        )[0]

    def task(self, stage: Stage) -> Task:
        """What training and evaluation need to know."""
        spec = make_spec(self.config, stage.sizes)
        return Task(MLP(spec, product(self.config.kernel)), self.config.batch_size)

    def measure(self, stage: Stage, state: TrainState) -> Result:
        """Reads the test set once, or takes the best test epoch as the original did."""
        best, epoch, diverged = jax.device_get((state.best_accuracy, state.best_epoch, state.diverged))
        accuracy, structure = best, state.net.structure
        if self.watch_part != "test":
            test = make_split(self.dataset, "test")
            judged = evaluate_all(self.clock, self.task(stage), state.best_params, structure, test)
            accuracy = np.asarray(judged.accuracy)
        diverged = diverged | ~np.isfinite(accuracy)
        accuracy, watched = (np.where(diverged, np.float32(np.nan), a) for a in (accuracy, best))
        layers = np.stack([c.num_nonzeros for c in jax.device_get(structure.weights)], axis=1)
        return Result(*map(jnp.asarray, (accuracy, watched, epoch, layers)))

    def provenance(self) -> dict[str, Any]:
        """Code, versions, device, time, and which data."""
        return {**provenance(), "dataset": self.dataset.name, "data_fingerprint": self.dataset.fingerprint}


def open_folder(config: Config, dataset: Dataset) -> RunFolder:
    """Opens the folder of a run; see :meth:`jaxnet.records.RunFolder.open`."""
    return _runtime.open_folder(config, dataset, PLOTS, may_differ=("doc",))


def prepare(config: Config, dataset: Dataset) -> Config:
    """Checks what can be checked before anything is written, and settles ``--kernel auto``.

    Raises:
      InputError: the density does not fit the sizes, there are no samples to
        evaluate on, or the kernel is not available.
    """
    specs = [make_spec(config, stage.sizes) for stage in make_stages(config, dataset)]
    for part, labels in (("validation", dataset.y_val), ("test", dataset.y_test)):
        if not len(labels) and (part == "test" or config.protocol == "clean"):
            raise InputError(f"{dataset.name} has no {part} samples")
    kernel = resolve_kernel(
        config.kernel, specs[-1], config.batch_size, config.num_seeds, config.out, config.resume
    )
    return dataclasses.replace(config, kernel=cast(Any, kernel))
