"""Growth: changes of a network's shape, on the host between compiled programs."""

from __future__ import annotations

from jaxnet.growth.budget import Budget, Target
from jaxnet.growth.decisions import Decision, DecisionRules, LayerCount, decide
from jaxnet.growth.member import GrowthData, Member
from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.population import grow_until
from jaxnet.growth.pruning import prune

__all__ = [
    "Budget",
    "Decision",
    "DecisionRules",
    "GrowthData",
    "GrowthPlan",
    "LayerCount",
    "Member",
    "Target",
    "decide",
    "grow_until",
    "prune",
]
