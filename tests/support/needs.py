"""What some tests need beyond the package, and how to see whether it is here.

A test says `@pytest.mark.needs("prometheus")`. Where the need is missing it skips with the reason below; where
`TEST_NEEDS` (names with commas, set by `.ci/run`) promises the need, it fails instead.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.support.private_mounts import lack_of_private_mounts
from tests.support.wrong_clock import libraries

ROOT: Final = Path(__file__).resolve().parents[2]
SHARED_DATA: Final = ROOT.parent / "shared" / "data"
EXPORT_PYTHON: Final = ROOT / ".venv-export" / "bin" / "python"

# Not TRIREEL_...: the servers that tests start refuse names of that form that are no settings.
PROMISED_NEEDS: Final = "TEST_NEEDS"


def _lack_of_program(name: str, package: str) -> Callable[[], str | None]:
    def lack() -> str | None:
        return None if shutil.which(name) else f"{name} is not installed: apt-get install {package}"

    return lack


def _lack_of_triton() -> str | None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "the embedded Triton runs on x86-64 Linux only"
    environment = Path(os.environ.get("TRIREEL_TRITON_ENV", ROOT / ".venv-triton"))
    if any(environment.glob("lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver")):
        return None
    return f"no embedded Triton in {environment}: make setup"


def _lack_of_export() -> str | None:
    if importlib.util.find_spec("ultralytics") and importlib.util.find_spec("torch"):
        return None
    return "ultralytics is not in this environment: make test-export"


def _lack_of_export_environment() -> str | None:
    if any((ROOT / ".venv-export").glob("lib/python3.*/site-packages/ultralytics")):
        return None
    return "there is no .venv-export: make test-export"


def _lack_of_postgresql() -> str | None:
    if postgresql_programs() is None:
        return "postgresql is not installed: apt-get install postgresql"
    return None if importlib.util.find_spec("psycopg") else "psycopg is not in this environment: make test"


def postgresql_programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs: Debian puts those that start a server on nobody's path."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    return max(folders, key=lambda folder: (folder.parent.name.zfill(4), str(folder)), default=None)


def _lack_of_faketime() -> str | None:
    return None if libraries() else "libfaketime is not installed: apt-get install faketime"


def _lack_of_shared_data() -> str | None:
    return None if SHARED_DATA.is_dir() else "the test material ../shared/data is not beside this checkout"


# Each answers why the need is missing, or None where it is here.
LACKS: Final[Mapping[str, Callable[[], str | None]]] = {
    "triton": _lack_of_triton,
    "export": _lack_of_export,
    "export_environment": _lack_of_export_environment,
    "postgresql": _lack_of_postgresql,
    "redis": _lack_of_program("redis-server", "redis-server"),
    "shared_data": _lack_of_shared_data,
    "private_mounts": lack_of_private_mounts,
    "prometheus": _lack_of_program("prometheus", "prometheus"),
    "promtool": _lack_of_program("promtool", "prometheus"),
    "docker_compose": _lack_of_program("docker-compose", "docker-compose"),
    "faketime": _lack_of_faketime,
    "shellcheck": _lack_of_program("shellcheck", "shellcheck"),
}


def promised_needs(env: Mapping[str, str]) -> frozenset[str]:
    """The needs that must not be missing. Raises ValueError for a name that is no need."""
    names = frozenset(filter(None, env.get(PROMISED_NEEDS, "").split(",")))
    if unknown := names - set(LACKS):
        raise ValueError(f"{PROMISED_NEEDS} names {', '.join(sorted(unknown))}; needs are {', '.join(sorted(LACKS))}")
    return names
