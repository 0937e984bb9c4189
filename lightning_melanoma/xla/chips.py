"""Figures of TPU chips: memory, arithmetic, bandwidth. One table, for bounds and for "does it fit".

Source: Google Cloud's pages "TPU v2", "TPU v3" ... "TPU v6e", section "System architecture"
(https://docs.cloud.google.com/tpu/docs/v5e and so on; read in November 2026). Capacities that those
give in GB are taken as GiB, as the chips have them.
"""

import math
import re
from typing import NamedTuple

_GIB = 1 << 30


class Chip(NamedTuple):
    """One chip of a generation.

    Attributes:
        hbm_bytes: memory.
        flops: multiplications and additions a second in bfloat16, peak.
        hbm_bandwidth: bytes a second between memory and cores, peak.
        default_slice: a slice of one host, as `AcceleratorType` names it.
        example: a topology that libtpu knows.
    """

    hbm_bytes: int
    flops: float
    hbm_bandwidth: float
    default_slice: str
    example: str


#: By the name that starts a topology.
CHIPS = {
    "v2": Chip(16 * _GIB, 45e12, 700e9, "v2-8", "2x2"),
    "v3": Chip(32 * _GIB, 123e12, 900e9, "v3-8", "2x2"),
    "v4": Chip(32 * _GIB, 275e12, 1200e9, "v4-8", "2x2x1"),
    "v5e": Chip(16 * _GIB, 197e12, 819e9, "v5litepod-8", "2x4"),
    "v5p": Chip(95 * _GIB, 459e12, 2765e9, "v5p-8", "2x2x1"),
    "v6e": Chip(32 * _GIB, 918e12, 1638e9, "v6e-8", "2x4"),
}

_FORM = re.compile(r"(v\d+[a-z]?):(\d+(?:x\d+){1,2})")


def check_topology(topology: str) -> int:
    """Return the number of chips of a topology such as `v5e:2x4`.

    Raises:
        ValueError: it is written otherwise, or of a generation that the table lacks.
    """
    match = _FORM.fullmatch(topology)
    if match is None or match[1] not in CHIPS:
        known = ", ".join(f"{name}:{chip.example}" for name, chip in CHIPS.items())
        raise ValueError(
            f"topology: expected a generation and its chips along each axis, such as {known}, "
            f"found {topology!r}"
        )
    return math.prod(int(side) for side in match[2].split("x"))
