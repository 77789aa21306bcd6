"""The use cases as handlers receive them: by the name of the parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from litestar.di import NamedDependency, Provide
from litestar.params import SkipValidation

from orchestrator.bootstrap import Services
from orchestrator.following import Following
from orchestrator.jobs import Jobs
from orchestrator.results import Results
from orchestrator.videos import Videos

# Litestar would otherwise check every injected object against its annotation, at every request.
AllServices: TypeAlias = NamedDependency[SkipValidation[Services]]
JobsCase: TypeAlias = NamedDependency[SkipValidation[Jobs]]
VideosCase: TypeAlias = NamedDependency[SkipValidation[Videos]]
ResultsCase: TypeAlias = NamedDependency[SkipValidation[Results]]
FollowingCase: TypeAlias = NamedDependency[SkipValidation[Following]]


def providers_of(services: Services) -> dict[str, Provide]:
    """Litestar's dependencies, by parameter name."""
    cases: dict[str, object] = {
        "services": services,
        "jobs": services.jobs,
        "videos": services.videos,
        "results": services.results,
        "following": services.following,
    }
    return {name: Provide(_giver(case), sync_to_thread=False) for name, case in cases.items()}


def _giver(case: object) -> Callable[[], Any]:
    def give() -> Any:
        return case

    return give
