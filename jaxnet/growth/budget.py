"""When growth ends: targets, budgets, and the reasons that are given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from jaxnet.allocation import allocate
from jaxnet.errors import InputError
from jaxnet.growth.plan import GrowthPlan
from jaxnet.statistics import exact_fraction


@dataclasses.dataclass(frozen=True)
class Target:
    """When a network does well enough.

    Attributes:
      accuracy: on the samples watched, in (0, 1].
      standard_errors: by how many binomial standard errors it must lie above,
        for a target that is to hold on other samples too.
    """

    accuracy: float
    standard_errors: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if not 0 < self.accuracy <= 1:
            raise ValueError(f"the target must be above 0 and at most 1: {self.accuracy}")
        if not (math.isfinite(self.standard_errors) and self.standard_errors >= 0):
            raise ValueError(f"standard_errors must be 0 or more: {self.standard_errors}")

    def reached(self, accuracy: float, samples: int) -> bool:
        """Whether an accuracy on so many samples is enough."""
        accuracy = exact_fraction(accuracy, samples)
        error = math.sqrt(max(0.0, accuracy * (1 - accuracy)) / samples)
        return accuracy - self.standard_errors * error >= self.accuracy


@dataclasses.dataclass(frozen=True)
class Budget:
    """What growth may cost, for every network.

    Attributes:
      iterations: of training, at most.
      nonzeros: weights of scaffold and patches, at most; a change that could
        lead beyond is not made.
      seconds: of the whole population, compiling included; looked at between
        iterations, and not repeatable to the bit.
      min_gain: accuracy by which the best must rise within ``stall`` iterations;
        None for no such rule.
      stall: see ``min_gain``.
    """

    iterations: int = 10
    nonzeros: int | None = None
    seconds: float | None = None
    min_gain: float | None = None
    stall: int = 3

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for name in ("iterations", "nonzeros", "stall"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1: {value}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be above 0: {self.seconds}")
        if self.min_gain is not None and not self.min_gain > 0:
            raise ValueError(f"min_gain must be above 0: {self.min_gain}")

    def check_start(self, plan: GrowthPlan) -> None:
        """Raises InputError where the network at the start is beyond the budget."""
        spec = plan.spec
        weights = sum(allocate(spec.sizes, spec.density, spec.allocation))
        if self.nonzeros is not None and weights > self.nonzeros:
            raise InputError(
                f"the budget of {self.nonzeros} weights is exceeded at the start: "
                f"{'-'.join(map(str, spec.sizes))} at density {spec.density:g} has {weights}; "
                "lower the density or raise the budget"
            )

    def stop_reason(
        self, target: Target, accuracies: Sequence[float], samples: int, seconds: float
    ) -> str | None:
        """Why a network stops after an iteration, or None.

        Args:
          target: when it does well enough.
          accuracies: of its iterations so far, on so many samples.
          samples: watched.
          seconds: spent so far.
        """
        if target.reached(accuracies[-1], samples):
            return "target"
        if len(accuracies) >= self.iterations:
            return "budget: iterations"
        if self.seconds is not None and seconds >= self.seconds:
            return "budget: seconds"
        if self.min_gain is not None and len(accuracies) > self.stall:
            gain = max(accuracies) - max(accuracies[: -self.stall])
            if gain < self.min_gain:
                return "diminishing returns"
        return None
