"""Where a scenario's randomness comes from: `make faults SEED=7 SEEDS=5` runs the kills with 7, 8, 9, 10 and 11."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

# Not TRIREEL_...: the servers that tests start refuse names of that form that are no settings.
SEED: Final = "FAULTS_SEED"
SEEDS: Final = "FAULTS_SEEDS"
# Of a sweep over the n-th call: 1 tries every n, 5 every fifth, beginning where the seed says.
STEP: Final = "FAULTS_STEP"
LARGEST_RANDOM: Final = 1_000_000


def first_seed(env: Mapping[str, str]) -> int:
    """The one that was asked for, or one nobody has chosen."""
    return int(env.get(SEED, "") or secrets.randbelow(LARGEST_RANDOM))


def seed_count(env: Mapping[str, str]) -> int:
    return int(env.get(SEEDS, "") or 1)


def sweep_step(env: Mapping[str, str]) -> int:
    return int(env.get(STEP, "") or 1)
