"""How a process was started: by itself, or as one of several ranks, by torchrun, accelerate or SLURM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_maxact.errors import SettingsError

PORTS = range(20000, 30000)  # for SLURM's jobs, by their number
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # clusters set some of them for other ends


@dataclass(frozen=True)
class Place:
    """Which of how many processes this one is, among all and on its machine, and where they meet."""

    rank: int
    size: int
    local: int
    address: str
    port: int

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Place | None:
        """By the variables of torchrun and accelerate where all are set, else by SLURM's; None for a process by itself.

        Raises:
            SettingsError: where they are no numbers, or it is not known where to meet.

        """
        if all(name in environ for name in TORCHRUN) and environ["WORLD_SIZE"] != "1":
            rank, size, local = (_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        elif environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":  # set by srun, not in the script around it
            rank, size, local = (_number(environ, f"SLURM_{name}") for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
        else:
            return None
        address = environ.get("MASTER_ADDR")
        if address is None and environ.get("SLURM_STEP_NUM_NODES") == "1":
            address = "127.0.0.1"
        if address is None:
            raise SettingsError(
                "the ranks do not know where to meet: export MASTER_ADDR=HOST, that of rank 0, and MASTER_PORT=PORT, a free one"
            )
        if "MASTER_PORT" in environ:
            port = _number(environ, "MASTER_PORT")
        else:
            port = PORTS[_number(environ, "SLURM_JOB_ID") % len(PORTS)]
        if not port:
            raise SettingsError("MASTER_PORT=0 is no port to meet at: with torchrun on one machine say --standalone")
        return cls(rank, size, local, address, port)


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    if not value.isdecimal():
        raise SettingsError(
            f"{name}={value!r} is no number: start the ranks with torchrun, accelerate launch or srun, or unset {name}"
        )
    return int(value)
