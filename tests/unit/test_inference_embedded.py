"""What surrounds the embedded server: its installation, command, variables, ports and log."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from orchestrator.errors import TritonStartError
from orchestrator.inference.installation import (
    ServerPorts,
    TritonInstallation,
    build_command,
    build_environment,
    find_installation,
    link_backends,
)
from orchestrator.inference.port_reservation import reserve_ports
from orchestrator.inference.server_process import last_error_in

INSTALLATION = TritonInstallation(
    python=Path("/env/bin/python"),
    server=Path("/env/tritonserver/bin/tritonserver"),
    python_backend=Path("/env/tritonserver/backends/python"),
    stub=Path("/env/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub"),
    library_dirs=(Path("/python/lib"), Path("/env/libs")),
)


async def test_a_missing_environment_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(TritonStartError, match=r"no embedded Triton in .*`make setup` installs it"):
        await find_installation(tmp_path / "absent")


async def test_an_environment_without_the_server_is_to_be_made_anew() -> None:
    with pytest.raises(TritonStartError, match=r"has no tritonserver; remove it and run `make setup`"):
        await find_installation(Path(sys.prefix))


async def test_a_python_that_does_not_run_says_why(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho broken pipe dream >&2; exit 3\n")
    python.chmod(0o755)
    with pytest.raises(TritonStartError, match="does not run: broken pipe dream"):
        await find_installation(tmp_path)


def test_the_server_inherits_neither_settings_nor_our_python() -> None:
    inherited = {
        "PATH": "/usr/bin",
        "LD_LIBRARY_PATH": "/cuda",
        "PYTHONPATH": "/ours",
        "VIRTUAL_ENV": "/ours",
        "TRIREEL_DATABASE_URL": "postgresql://me:secret@db",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert build_environment(INSTALLATION, inherited) == {
        "PATH": f"/env/bin{os.pathsep}/usr/bin",
        "LD_LIBRARY_PATH": "/python/lib:/env/libs:/cuda",
        "CUDA_VISIBLE_DEVICES": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_every_address_is_the_loopback() -> None:
    command = build_command(
        INSTALLATION,
        repository=Path("/models"),
        config_name="embedded",
        backends=Path("/backends"),
        ports=ServerPorts(http=1, grpc=2, metrics=3),
        region_prefix="prefix_",
        niceness=5,
    )
    assert [option for option in command if "-address=" in option] == [
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    ]
    assert {"--http-port=1", "--grpc-port=2", "--metrics-port=3", "--load-model=*"} <= set(command)


def test_the_stub_lies_beside_the_backend(tmp_path: Path) -> None:
    for _ in range(2):
        backends = link_backends(INSTALLATION, tmp_path / "backends")
        links = {link.name: link.readlink() for link in (backends / "python").iterdir()}
    assert links["triton_python_backend_stub"] == INSTALLATION.stub
    assert links["libtriton_python.so"].parent == INSTALLATION.python_backend


def test_a_reserved_port_is_kept_for_the_server() -> None:
    with reserve_ports("127.0.0.1", (0,)) as (port,):
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))
            server.listen()


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(TritonStartError, match=f"port {port} of 127.0.0.1 cannot be used"),
            reserve_ports("127.0.0.1", (port,)),
        ):
            pass


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            'E1123 16:14:07.619702 8656 server.cc:241] "CudaDriverHelper has not been initialized."\n'
            "E1123 16:14:07.712113 8656 model_lifecycle.cc:642] \"failed to load 'broken' version 1\"\n"
            'E1123 16:14:09.427921 8656 tritonserver.cc:2607] "Internal: failed to load all models"\n'
            "I1123 16:14:09.437112 8656 grpc_server.cc:2558] Started\n",
            "failed to load 'broken' version 1",
        ),
        (
            "I1123 16:14:09.437112 8656 grpc_server.cc:2558] Started\nerror: creating server: busy\n",
            "creating server: busy",
        ),
        ("bash: cannot execute\n", "bash: cannot execute"),
        ("", "its log says nothing"),
    ],
)
def test_the_last_error_of_a_log_is_found(log: str, error: str) -> None:
    assert last_error_in(log) == error
