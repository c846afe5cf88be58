"""A run of a study: its folder, its samples, its clock, and what is settled before it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import data, environment
from jaxnet.data import Dataset, augment
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path
from jaxnet.kernels import product
from jaxnet.kernels.choice import choose
from jaxnet.keys import key_of, keys_of
from jaxnet.lab.flags import UNSAID
from jaxnet.lab.terminal import compiling
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.programs import ONCE, Beside, Clock
from jaxnet.sharding import NetworkSharding
from jaxnet.statistics import exact_fraction
from jaxnet.store.folder import CONFIG, RunFolder
from jaxnet.train import Batches, Task, answers, epoch_order
from jaxnet.types import Array, Int, Key

C = TypeVar("C")
Part = Literal["train", "val", "test"]
"""A part of a data set."""

PARTS = {"train": "training", "val": "validation", "test": "test"}
"""The parts in words."""

WATCHED: dict[str, Part] = {"clean": "val", "seed": "test", "described": "test"}
"""What epochs and targets are judged by, by protocol."""


@dataclass(eq=False)
class Run(Generic[C]):
    """What a study computes with.

    Attributes:
      config: settled: nothing in it is ``auto``.
      dataset: the samples, on the host.
      folder: where everything goes.
      report: takes a line for the reader.
      beside: compiles what :meth:`compiled` will be asked for by name.
      clock: seconds of compiling and running.
    """

    config: C
    dataset: Dataset
    folder: RunFolder
    report: Callable[[str], None] = print
    beside: Beside = field(default_factory=Beside)
    clock: Clock = field(default_factory=Clock)
    _splits: dict[Any, Split] = field(default_factory=dict)
    _orders: dict[int, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> range:
        """Numbers of the networks of an arm."""
        config: Any = self.config
        return range(config.seed, config.seed + config.num_seeds)

    @cached_property
    def keys(self) -> Key:
        """A key per seed."""
        with jax.ensure_compile_time_eval():  # also where shapes alone are asked for first
            return keys_of(self.seeds)

    @property
    def key_data(self) -> Key:
        """Key of the order of the samples."""
        return key_of(self.config.data_seed)  # type: ignore[attr-defined]

    @property
    def watched(self) -> Part:
        """What epochs and targets are judged by."""
        return WATCHED[self.config.protocol]  # type: ignore[attr-defined]

    def split(self, part: Part, samples: slice = slice(None)) -> Split:
        """A part of the data set on the device as it is stored; all samples or some."""
        key = part, samples.start, samples.stop
        if key not in self._splits:
            self._splits[key] = make_split(self.dataset, part, samples)
        return self._splits[key]

    def order(self, batch_size: int) -> Callable[[Key, Array], Batches]:
        """The order of the training samples, by the key of the data and the number of the epoch."""
        if batch_size not in self._orders:
            draw = partial(epoch_order, self.split("train").size, batch_size)
            number = jnp.zeros((), jnp.int32)
            self._orders[batch_size] = self.compiled("the order", draw, key_of(0), number, options=ONCE)
        return self._orders[batch_size]

    def compiled(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The compiled function; the terminal says what is being compiled."""
        with compiling(what):
            if begun := self.beside.take(what):
                return self.clock.awaited(begun)
            return self.clock.compiled(function, *args, **options)

    def over_seeds(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """``function`` of every network: arguments ``(network, ...)``; a :class:`Split` is shared."""
        each = [not isinstance(arg, Split) for arg in args]
        sharding = NetworkSharding.of(len(jax.tree.leaves(args[0])[0]))
        args = sharding.place(args, each)
        return sharding.gather(self.compiled(what, sharding.over(function, each), *args, **options)(*args))

    def task(self, spec: NetworkSpec, **fields: Any) -> Task:
        """How a network is trained: with the kernel, the batches and the augmentation of the flags."""
        config: Any = self.config
        changed = augmentation(config, self.dataset)
        return Task(MLP(spec, product(config.kernel)), config.batch_size, transform=changed, **fields)

    def judge(self, task: Task, params: Any, structure: Any, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Exact accuracies ``(network,)``, and on even and odd samples ``(network, 2)``; NaN if diverged."""
        counts = self.over_seeds("the evaluation", partial(count_right, task), params, structure, split)
        return fractions(np.asarray(counts), split.size)


def count_right(task: Task, params: Any, structure: Any, split: Split) -> Int[Array, "half"]:
    """How many of the even and of the odd samples one network answers right; -1 where it has diverged."""
    right, finite = answers(task, params, structure, split)
    halves = jnp.stack([jnp.sum(right[::2]), jnp.sum(right[1::2])])
    return jnp.where(finite, halves, -1)


def fractions(counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy ``(network,)`` and that on both halves ``(network, 2)`` from counts ``(network, 2)``."""
    counts = np.where(counts < 0, np.nan, counts.astype(float))
    return counts.sum(axis=1) / size, counts / np.array([(size + 1) // 2, max(size // 2, 1)])


def load(config: Any) -> Dataset:
    """Loads the data set of a configuration: all training samples, but with ``--protocol clean``."""
    fraction = data.DEFAULT_VALIDATION_FRACTION if config.protocol == "clean" else 0.0
    dataset = data.load(config.dataset, data_dir=config.data_dir, validation_fraction=fraction)
    match getattr(config, "normalise", None) or (config.protocol == "described" and "pixels"):
        case "channels":
            dataset = augment.by_channel(dataset)
        case "pixels":
            zero = np.zeros(dataset.num_features, np.float32)
            dataset = dataclasses.replace(dataset, mean=zero, std=zero + 1)
    augmentation(config, dataset)  # wrong input leaves nothing behind
    return dataset


def augmentation(config: Any, dataset: Dataset) -> augment.Augmentation | None:
    """The transform of training batches that ``--augment`` asks for.

    Raises:
      InputError: the data set cannot be augmented.
    """
    names = getattr(config, "augment", None)
    return augment.augmentation(dataset, names) if names else None


def make_split(dataset: Dataset, part: Part, samples: slice = slice(None)) -> Split:
    """Puts a part of a data set on the device as it is stored; all ``samples`` or some."""
    x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
    # a NumPy copy first: device arrays must not alias a memory-mapped cache file
    x, y = np.array(x[samples]), np.array(y[samples])
    return Split(jnp.asarray(x), jnp.asarray(y), jnp.asarray(dataset.mean), jnp.asarray(dataset.std))


def network_spec(
    dataset: Dataset, sizes: tuple[int, ...] | None, hidden: tuple[int, ...] = (256, 128), **fields: Any
) -> NetworkSpec:
    """The network for a data set, of ``--sizes`` or (None) with ``hidden`` layers, and other ``fields``.

    Raises:
      InputError: ``--sizes`` does not fit the data, or the density is too low for the sizes.
    """
    ends = (dataset.num_features, dataset.num_classes)
    sizes = sizes or (ends[0], *hidden, ends[1])
    if (sizes[0], sizes[-1]) != ends:
        raise InputError(
            f"--sizes {','.join(map(str, sizes))} does not fit {dataset.name}: "
            f"it has {ends[0]} features and {ends[1]} classes, so give {ends[0]},...,{ends[1]}"
        )
    try:
        return NetworkSpec(sizes, **fields)
    except ValueError as error:
        raise InputError(str(error)) from None


def init_rule(config: Any) -> str:
    """Initial weights: what is asked for, or what the protocol says."""
    rule: str = config.init or ("dense-fan-in" if config.protocol == "seed" else "sparse-fan-in")
    return rule


def check_samples(config: Any, dataset: Dataset) -> None:
    """Raises InputError where there is nothing to judge by."""
    for part in dict.fromkeys((WATCHED[config.protocol], "test")):
        if not len(getattr(dataset, f"y_{part}")):
            raise InputError(f"{dataset.name} has no {PARTS[part]} samples")


def resolve_kernel(config: C, spec: NetworkSpec, num_networks: int) -> C:
    """The configuration with a kernel: for ``auto`` what :func:`jaxnet.kernels.choice.choose` says.

    A continued run keeps the product that it started with, and so the bits it ends with.

    Raises:
      InputError: the product asked for is not available here, or a setting would change results.
    """
    given: Any = config
    environment.check()
    kernel, stored = given.kernel, user_path(given.out) / CONFIG
    if kernel == "auto" and given.resume and stored.exists():
        known = read_json(stored)
        kernel = known.get("kernel", kernel) if isinstance(known, dict) else kernel
    if kernel == "auto":
        kernel = choose(spec.sizes, spec.density, given.batch_size, num_networks, spec.allocation)
    product(kernel)
    return dataclasses.replace(given, kernel=kernel)


def arm_values(config: Any, name: str) -> dict[str, Any]:
    """What a comparison hands to one of its runs, whose folder is called after it."""
    folder = "".join(c if c.isalnum() else "-" for c in name.encode("ascii", "ignore").decode().lower())
    handed = {key: getattr(config, key) for key in ("dataset", "data_dir", "kernel", "resume", "overwrite")}
    also = {key: value for key in UNSAID if (value := getattr(config, key, None))}
    return {**handed, **also, "out": str(user_path(config.out) / folder)}


def exact(values: np.ndarray, count: int) -> np.ndarray:
    """Accuracies as exact fractions of ``count`` samples."""
    return np.array([exact_fraction(float(value), count) for value in values])
