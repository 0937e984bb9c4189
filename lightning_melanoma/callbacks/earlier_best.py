"""Find the best checkpoint of the run that goes on: that very file, not any of its name.

All runs call it by one name, in folders that are numbered anew in each working folder, moved and
removed. What tells it is the training that it comes from: the rows of metrics of all epochs up to
the best, which no other run has.
"""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def find_earlier_best(
    ckpt_path: Path, checkpoint: Mapping[str, Any], *, state_key: str
) -> tuple[Path, int] | None:
    """Return the best checkpoint of a run so far, and the epoch that it is of.

    It is looked for beside the checkpoint that the run goes on from, then where the run kept it.
    The checkpoint may be the best one itself, under another name.

    Args:
        ckpt_path: of the checkpoint that the run goes on from.
        checkpoint: what it holds.
        state_key: the key of the state of `BestCheckpoint` in it.

    Returns:
        None where it is in none of these places.
    """
    kept = Path(checkpoint["callbacks"][state_key]["best_model_path"])
    for path in (ckpt_path.with_name(kept.name), kept, ckpt_path):
        found = _content(path)
        if _is_best_of(checkpoint, found, state_key):
            return path, int(found["epoch"])
    return None


def _is_best_of(checkpoint: Mapping[str, Any], found: Mapping[str, Any], state_key: str) -> bool:
    state = checkpoint["callbacks"][state_key]
    own = found.get("callbacks", {}).get(state_key)
    if not own or own["best_model_score"] != state["best_model_score"]:
        return False
    rows = found["epochs"]["history"]
    # As text, in which NaN equals NaN.
    has_same_past = repr(rows) == repr(checkpoint["epochs"]["history"][: len(rows)])
    # Not of a step within an epoch, nor of a later epoch, which has the same score in its state.
    is_whole = (found["epoch"], found["global_step"]) == (rows[-1]["epoch"], rows[-1]["step"])
    # The score may be one of float32.
    value = rows[-1].get(state["monitor"], math.nan)
    return has_same_past and is_whole and math.isclose(value, own["best_model_score"], rel_tol=1e-6)


def _content(path: Path) -> Mapping[str, Any]:
    """Return what a checkpoint holds; nothing where there is none."""
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return {}
    return content if isinstance(content, dict) else {}
