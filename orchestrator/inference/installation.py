"""Where the embedded Triton lies in its environment, and how it is called.

The nvidia-pytriton wheel carries `tritonserver`, its Python backend and one stub for each Python version. Triton looks
for the stub beside the backend's library, so both are linked into a private directory; the wheel stays as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import TritonStartError

LOOPBACK: Final = "127.0.0.1"
PROBE_TIMEOUT_S: Final = 30.0
# How long Triton waits after SIGTERM for requests in flight and for its models' processes. An orderly unloading takes
# 2.51 two seconds and more; cutting it short lost nothing, as what is left is killed and removed anyway.
EXIT_TIMEOUT_S: Final = 1
# The beginning is Triton's own, since newer servers reserve it: no client may name a region like this.
REGION_PREFIX: Final = "triton_python_backend_shm_region_trireel_"
PROBE: Final = """
import ctypes, json, sys, sysconfig
from pathlib import Path
libdir = sysconfig.get_config_var("LIBDIR") or ""
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
def loads(path):
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "purelib": sysconfig.get_path("purelib"),
    "libdir": libdir,
    "library": name,
    "has_library": (Path(libdir) / name).exists() or loads(name),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonInstallation:
    """Absolute paths in the environment. library_dirs: where the server and its stub find their shared libraries."""

    python: Path
    server: Path
    python_backend: Path
    stub: Path
    library_dirs: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class ServerPorts:
    """TCP ports on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int


async def find_installation(environment: Path) -> TritonInstallation:
    """Look into the environment. Raises TritonStartError with the command that installs what is missing."""
    python = environment / "bin" / "python"
    if not python.exists():
        raise TritonStartError(f"there is no embedded Triton in {environment}; `make setup` installs it")
    return _installation_of(environment, python, await _probe(python))


async def _probe(python: Path) -> Mapping[str, str]:
    process = await asyncio.create_subprocess_exec(
        python, "-I", "-c", PROBE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, complaint = await asyncio.wait_for(process.communicate(), PROBE_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise TritonStartError(f"{python} gave no answer within {PROBE_TIMEOUT_S:.0f} s") from None
    if process.returncode != 0:
        raise TritonStartError(f"{python} does not run: {complaint.decode(errors='replace').strip()}")
    facts: Mapping[str, str] = json.loads(output)
    return facts


def _installation_of(environment: Path, python: Path, facts: Mapping[str, str]) -> TritonInstallation:
    root = Path(facts["purelib"]) / "pytriton" / "tritonserver"
    installation = TritonInstallation(
        python=python,
        server=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / facts["version"] / "triton_python_backend_stub",
        library_dirs=(Path(facts["libdir"]), Path(facts["purelib"]) / "nvidia_pytriton.libs"),
    )
    if not installation.server.exists():
        raise TritonStartError(f"{environment} has no tritonserver; remove it and run `make setup`")
    if not installation.stub.exists():
        raise TritonStartError(
            f"the embedded Triton has no Python backend for Python {facts['version']}; "
            "remove the environment and run `make setup` with Python 3.11 or 3.12"
        )
    if not facts["has_library"]:
        raise TritonStartError(
            f"Triton's Python backend needs {facts['library']}, which the Python of {environment} lacks; install the "
            f"package libpython{facts['version']} or make the environment with a Python built with --enable-shared"
        )
    return installation


def link_backends(installation: TritonInstallation, folder: Path) -> Path:
    """Make `folder` anew: a backend directory with the Python backend and the stub for the environment's Python."""
    shutil.rmtree(folder, ignore_errors=True)
    backend = folder / "python"
    backend.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (backend / name).symlink_to(installation.python_backend / name)
    (backend / installation.stub.name).symlink_to(installation.stub)
    return folder


def build_command(
    installation: TritonInstallation,
    *,
    repository: Path,
    config_name: str,
    backends: Path,
    ports: ServerPorts,
    region_prefix: str,
    niceness: int,
) -> list[str]:
    """The whole command line, guardian included; every address is the loopback's.

    Broken models do not take the server down, but keep it from being ready. Configurations are complete, so they are
    not completed by starting every model's stub once more. The ports may be held by
    `port_reservation`, hence the reuse.
    """
    options = {
        "model-repository": repository,
        "backend-directory": backends,
        "backend-config": f"python,shm-region-prefix-name={region_prefix}",
        "model-control-mode": "explicit",
        "load-model": "*",
        "model-config-name": config_name,
        "strict-readiness": "true",
        "exit-on-error": "false",
        "exit-timeout-secs": EXIT_TIMEOUT_S,
        "http-address": LOOPBACK,
        "http-port": ports.http,
        "reuse-http-port": "true",
        "grpc-address": LOOPBACK,
        "grpc-port": ports.grpc,
        "reuse-grpc-port": "true",
        "metrics-address": LOOPBACK,
        "metrics-port": ports.metrics,
        "allow-sagemaker": "false",
        "allow-vertex-ai": "false",
    }
    guardian = Path(__file__).with_name("guardian.py")
    duties = [os.getpid(), niceness, EXIT_TIMEOUT_S + 1, region_prefix]
    prefix = [installation.python, "-I", "-S", guardian, *duties, installation.server]
    return [
        *map(str, prefix),
        "--disable-auto-complete-config",
        *(f"--{name}={value}" for name, value in options.items()),
    ]


def build_environment(installation: TritonInstallation, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's environment variables: ours without Python's and the orchestrator's, with its paths in front.

    The stub finds its interpreter through PATH. Settings are left out because they may hold a database password.
    """
    kept = {
        name: text for name, text in inherited.items() if not name.startswith(("PYTHON", "TRIREEL_", "VIRTUAL_ENV"))
    }
    libraries = [*map(str, installation.library_dirs), kept.get("LD_LIBRARY_PATH", "")]
    path = [str(installation.python.parent), kept.get("PATH", os.defpath)]
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def check_platform() -> None:
    """Raises TritonStartError where the wheel's server cannot run."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise TritonStartError(
            "the embedded Triton runs on x86-64 Linux only; set TRIREEL_TRITON_URL to the gRPC address of another one"
        )
