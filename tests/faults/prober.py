"""A monitor that looks at /healthz and /readyz all the time, as a load balancer does."""

from __future__ import annotations

import time
from threading import Event, Thread
from typing import Final

import httpx

from tests.faults.evidence import Probe

EVERY_S: Final = 0.25
# Longer than an answer may take, so that a slow one is told from none.
TIMEOUT_S: Final = 8.0
PATHS: Final = ("/healthz", "/readyz")


class Prober:
    """Probes until it is stopped."""

    def __init__(self, url: str) -> None:
        self.probes: list[Probe] = []
        self._url = url
        self._stop = Event()
        self._thread = Thread(target=self._probe, name="prober", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _probe(self) -> None:
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S, trust_env=False) as http:
            while not self._stop.wait(EVERY_S):
                for path in PATHS:
                    began_s = time.monotonic()
                    try:
                        status: int | None = http.get(path).status_code
                    except httpx.TransportError:
                        status = None
                    took_s = time.monotonic() - began_s
                    self.probes.append(Probe(path=path, at_s=began_s, took_s=took_s, status=status))
