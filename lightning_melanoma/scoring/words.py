"""The table of scores for a person on a terminal, and as a CSV or JSON file for a program."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lightning_melanoma
from lightning_melanoma.csv_tables import write_csv_atomically
from lightning_melanoma.decisions.abstention import lowest_miss_rate
from lightning_melanoma.decisions.novelty import FALSE_ALARMS
from lightning_melanoma.decisions.verdicts import BENIGN, MELANOMA, REFER, Reference, Rule
from lightning_melanoma.records.files import atomic_file
from lightning_melanoma.scoring.judging import Basis
from lightning_melanoma.tasks.age import MIDDLE_AGE

NOTICE = "Research software, no medical device: it takes the place of no examination."


def as_text(table: pd.DataFrame, basis: Basis, *, num_without_age: int) -> str:
    """Return the table and what it goes by, to read.

    Args:
        table: of the scores.
        basis: that they were judged by.
        num_without_age: images whose patient's age a checkpoint wants, and that is unknown.
    """
    shown = pd.DataFrame(
        {
            "file": table["file"],
            "probability": [_number(value) for value in table["probability"]],
            "interval": _ranges(table["lower"], table["upper"]),
            "views": _ranges(table["views_lower"], table["views_upper"]),
            "decision": table["decision"].fillna(""),
            "note": table["note"],
        }
    )
    shown = shown[[name for name in shown if name == "file" or shown[name].ne("").any()]]
    rows = [list(shown.columns), *shown.to_numpy().tolist()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(shown.columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *_explanation(table, basis, num_without_age), NOTICE])


def write_table(table: pd.DataFrame, basis: Basis, path: Path) -> None:
    """Write the table, whole or not at all: with what it goes by as .json, alone as .csv.

    Raises:
        OSError: `path` cannot be written.
    """
    if path.suffix == ".csv":
        write_csv_atomically(table, path)
        return
    rows = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
    text = json.dumps({**_settings(basis), "images": rows}, indent=1, allow_nan=False)
    with atomic_file(path) as stream:
        stream.write(f"{text}\n".encode())


def _settings(basis: Basis) -> dict[str, Any]:
    reference, rule = basis.reference, basis.rule
    return {
        "version": lightning_melanoma.__version__,
        "notice": NOTICE,
        "checkpoints": [member.path for member in basis.members],
        "uncalibrated": basis.uncalibrated,
        "prevalence": basis.prevalence,
        "sensitivity": basis.sensitivity,
        "miss_rate": basis.miss_rate,
        "melanoma_from": rule and _sigmoid(basis.shown(rule.melanoma_from)),
        "benign_below": rule and _sigmoid(basis.shown(rule.benign_below)),
        "num_calibration_images": reference and len(reference.targets),
        "num_calibration_melanomas": reference and reference.num_melanomas,
    }


def _explanation(table: pd.DataFrame, basis: Basis, num_without_age: int) -> list[str]:
    counts = {name: int((table["decision"] == name).sum()) for name in (MELANOMA, BENIGN, REFER)}
    num_scored = int(table["probability"].notna().sum())
    found = ", ".join(f"{count} {name}" for name, count in counts.items() if basis.rule)
    lines = [f"{num_scored} images{': ' if found else ''}{found}."]
    if num_faults := len(table) - num_scored:
        lines.append(f"{num_faults} of {len(table)} files could not be scored.")
    if basis.reference and basis.rule:
        lines += _decisions(basis.reference, basis.rule, basis)
    else:
        lines.append(
            f"Raw probabilities, without interval and decision: {', '.join(basis.uncalibrated)} "
            "has no calibration, which `fit` writes into best.ckpt."
        )
    for member in basis.members:
        if member.calibration and member.calibration.fault:
            lines.append(
                f"{member.path}: only class weights are undone; {member.calibration.fault}"
            )
    if num_without_age:
        told = [member.path for member in basis.members if member.uses_age]
        lines.append(
            f"{num_without_age} of {len(table)} images came without the patient's age and count as "
            f"of {MIDDLE_AGE:g} years in {', '.join(told)}; --metadata tells ages. What is said of "
            "shares of melanomas holds with ages as the calibration images have them."
        )
    without = [member.path for member in basis.members if member.gate is None]
    if len(without) == len(basis.members):
        lines.append("Nothing was checked for a lesion in view: the checkpoint knows no lesions.")
    return lines


def _decisions(reference: Reference, rule: Rule, basis: Basis) -> list[str]:
    lowest = f"{lowest_miss_rate(reference.num_melanomas):.2g}"
    melanoma_from, benign_below = (
        _number(_sigmoid(basis.shown(odds)))
        for odds in (rule.melanoma_from, min(rule.benign_below, rule.melanoma_from))
    )
    lines = [
        f"melanoma: from {melanoma_from} on, which finds {basis.sensitivity:g} of the "
        f"{reference.num_melanomas} melanomas among {len(reference.targets)} calibration images."
    ]
    if basis.miss_rate is None:
        lines.append(
            "benign: below that. With --miss_rate, which so many melanomas support from "
            f"{lowest} on, it is `refer` where that is not sure."
        )
    else:
        lines.append(
            f"benign: below {benign_below}, as at most {basis.miss_rate:g} of melanomas like those "
            f"are; so many support {lowest} and more. refer: between."
        )
    lines.append(
        f"refer: also what is farther from the calibration lesions than {1 - FALSE_ALARMS:.0%} of "
        "them are from each other."
    )
    return lines


def _ranges(lower: Iterable[float], upper: Iterable[float]) -> list[str]:
    pairs = zip(lower, upper, strict=True)
    return ["" if math.isnan(low) else f"{_number(low)} to {_number(high)}" for low, high in pairs]


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def _sigmoid(odds: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -odds)))
