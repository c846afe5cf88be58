"""Compiled programs and what they cost: a clock, and a cache by shape."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from jaxnet.files import cache_folder
from jaxnet.provenance import available_memory, processors

ONCE = {"xla_backend_optimization_level": 0}
"""Options of the compiler for drawing networks, which runs once: half the time to compile, the same bits."""


def prepare_jax() -> None:
    """What every program begins with: a cache of compiled programs, a device per processor."""
    use_compilation_cache()
    use_all_processors()


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    # a cache that cannot be read or written costs compile time, nothing else
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError):  # no home folder, no cache
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # the small ones add up


def use_all_processors() -> None:
    """Has JAX see a CPU as one device per processor, before it starts; JAX_NUM_CPU_DEVICES says otherwise.

    Networks trained in one call are laid over the devices, so that every part of a step runs on all
    processors. Samples lie on every device: there are no more of them than the free memory has GiB.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", min(processors(), max(1, available_memory() // 2**30)))


def compile_for(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    donate: tuple[int, ...] = (),
    options: dict[str, Any] | None = None,
) -> Any:
    """The program of a function for arguments, or for what has their shapes."""
    return jax.jit(function, donate_argnums=donate).lower(*args).compile(compiler_options=options)


@dataclasses.dataclass
class Clock:
    """Seconds spent waiting for the compiler and running, over all parts of a continued run."""

    compile_seconds: float = 0.0
    run_seconds: float = 0.0

    def add(self, seconds: dict[str, Any]) -> None:
        """Adds what :meth:`as_dict` gave in an earlier part of the run; other entries are ignored."""
        self.compile_seconds += float(seconds["compile_seconds"])
        self.run_seconds += float(seconds["run_seconds"])

    def as_dict(self) -> dict[str, float]:
        """For ``summary.json`` and checkpoints."""
        return {"compile_seconds": self.compile_seconds, "run_seconds": self.run_seconds}

    def compiled(
        self,
        function: Callable[..., Any],
        *args: Any,
        donate: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Compiles ``function`` for ``args`` ahead of time; returns it as a timed callable."""
        return self.awaited(lambda: compile_for(function, args, donate, options))

    def awaited(self, compiling: Callable[[], Any]) -> Any:
        """The program that ``compiling`` gives, at once or after a while, as a timed callable."""
        start = time.perf_counter()
        program = compiling()
        self.compile_seconds += time.perf_counter() - start

        def run(*args: Any) -> Any:
            start = time.perf_counter()
            result = jax.block_until_ready(program(*args))
            self.run_seconds += time.perf_counter() - start
            return result

        return run


class Beside:
    """Programs that are compiled in threads of their own, beside what runs, until they are asked for."""

    def __init__(self) -> None:
        """Starts no thread yet."""
        self._pool = ThreadPoolExecutor(min(4, processors()))
        self._begun: dict[Hashable, Future[Any]] = {}

    def begin(self, name: Hashable, make: Callable[[], tuple[Any, ...]]) -> None:
        """Begins to compile, once, what will be asked for by this name.

        ``make`` gives the arguments of :func:`compile_for`.
        """
        if name not in self._begun:
            self._begun[name] = self._pool.submit(lambda: compile_for(*make()))

    def load(self, module: str) -> None:
        """Begins to import what will be needed."""
        self._pool.submit(importlib.import_module, module)

    def take(self, name: Hashable) -> Callable[[], Any] | None:
        """What waits for the program of this name, or None where it was not begun."""
        found = self._begun.pop(name, None)
        return None if found is None else found.result

    def close(self) -> None:
        """Lets go what nobody has asked for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Programs:
    """Compiles every function once per name and shape of its arguments.

    Of programs that are not asked for any more the oldest are let go: on a CPU each holds
    hundreds to thousands of memory mappings, of which Linux grants a process 65,530
    by default, and LLVM ends the process that wants more.

    Attributes:
      clock: adds up the time.
      compiled: how many programs were compiled.
    """

    def __init__(self, clock: Clock, keep: int = 12) -> None:
        """``keep`` is how many programs are kept, those asked for last."""
        self.clock = clock
        self.compiled = 0
        self._keep, self._beside = keep, Beside()
        self._known: OrderedDict[Hashable, Any] = OrderedDict()

    def get(
        self,
        name: Hashable,
        make: Callable[[], Callable[..., Any]],
        *args: Any,
        donate: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """The program ``name`` for arguments like ``args``; a timed callable.

        Args:
          name: together with the shapes of the arguments it must say all that
            the function depends on.
          make: builds the function; called where it is not known yet.
          args: arrays, or what has their shapes.
          donate: arguments whose memory the program may use for its results.
          options: of the compiler.
        """
        key = _key(name, args)
        if key not in self._known:
            while len(self._known) >= self._keep:  # before: the new one needs room
                self._known.popitem(last=False)
            begun = self._beside.take(key) or (lambda: compile_for(make(), args, donate, options))
            self._known[key] = self.clock.awaited(begun)
            self.compiled += 1
        self._known.move_to_end(key)
        return self._known[key]

    def begin(
        self,
        name: Hashable,
        make: Callable[[], Callable[..., Any]],
        *args: Any,
        donate: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> None:
        """Begins to compile what :meth:`get` will be asked for with the same arguments, or their shapes."""
        key = _key(name, args)
        if key not in self._known:
            self._beside.begin(key, lambda: (make(), args, donate, options))

    def close(self) -> None:
        """Lets go what was begun and never asked for."""
        self._beside.close()


def _key(name: Hashable, args: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(args)
    return (
        name,
        structure,
        tuple((jax.numpy.shape(leaf), str(jax.numpy.result_type(leaf))) for leaf in leaves),
    )
