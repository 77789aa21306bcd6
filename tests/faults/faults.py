"""Faults: each is planned by name, and says what it hit whenever it fires."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.faults.evidence import PlannedFault


@dataclass(slots=True)
class Fault:
    name: str
    hits: list[str] = field(default_factory=list)

    def fired(self, hit: object) -> None:
        self.hits.append(str(hit))


@dataclass(slots=True)
class FaultPlan:
    """What is to go wrong in a scenario. The checker complains of whatever did not."""

    faults: list[Fault] = field(default_factory=list)

    def plan(self, name: str) -> Fault:
        fault = Fault(name)
        self.faults.append(fault)
        return fault

    @property
    def planned(self) -> tuple[PlannedFault, ...]:
        return tuple(PlannedFault(name=fault.name, hits=tuple(fault.hits)) for fault in self.faults)
