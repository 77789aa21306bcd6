"""A decoder parent whose children do not die, as if they waited in the kernel for a disk that gives no answer."""

from __future__ import annotations

import os

from orchestrator.video import decoder_parent

if __name__ == "__main__":
    os.kill = lambda *_: None
    decoder_parent.main()
