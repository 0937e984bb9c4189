"""From what checkpoints say of files to the table: probability, interval, range, decision, note."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_melanoma.decisions.calibration import to_prevalence
from lightning_melanoma.decisions.novelty import FALSE_ALARMS
from lightning_melanoma.decisions.verdicts import (
    REFER,
    Reference,
    Rule,
    intervals,
    reference_of,
    rule_of,
)
from lightning_melanoma.predictions import probabilities_of
from lightning_melanoma.scoring.ensemble import Member, MemberScores
from lightning_melanoma.tasks.age import MIDDLE_AGE

#: The columns of the table that hold numbers.
NUMBERS = ("probability", "lower", "upper", "views_lower", "views_upper")

_RAW = "raw probability: no calibration"


@dataclass(frozen=True, eq=False)
class Basis:
    """What images are judged by.

    Attributes:
        members: the checkpoints.
        prevalence: of the population of the images; None for that of each checkpoint.
        sensitivity: of the operating point on the calibration set.
        miss_rate: of melanomas to come, or None.
        reference: the rows of the calibration set; None where a checkpoint has none.
        rule: when which decision is said; None likewise.
    """

    members: Sequence[Member]
    prevalence: float | None
    sensitivity: float
    miss_rate: float | None
    reference: Reference | None
    rule: Rule | None

    @property
    def uncalibrated(self) -> list[str]:
        """The paths of the checkpoints that have no calibration."""
        return [member.path for member in self.members if member.calibration is None]

    def odds(
        self, said: Sequence[MemberScores], num_views: int, *, prevalence: float | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean log-odds of the members: (N,), and (num_views, N) of single views.

        Those by which images are ranked and decided on have the prevalence of each checkpoint.
        """
        points, views = [], []
        for member, scores in zip(self.members, said, strict=True):
            mean, rows = scores.logits[: member.num_views].mean(axis=0), scores.logits[:num_views]
            points.append(self._log_odds(member, mean, prevalence))
            views.append([self._log_odds(member, row, prevalence) for row in rows])
        return np.mean(points, axis=0), np.mean(views, axis=0)

    def shown(self, odds: float) -> float:
        """Return log-odds of the rule's scale on that of the table's probabilities."""
        if self.prevalence is None:
            return odds
        own = [member.calibration.prevalence for member in self.members if member.calibration]
        moved = [to_prevalence(odds, source=each, target=self.prevalence) for each in own]
        return float(np.mean(moved))

    def _log_odds(
        self, member: Member, logits: NDArray[np.float64], prevalence: float | None
    ) -> NDArray[np.float64]:
        if self.reference is None or member.calibration is None:
            return logits - member.classifier.prior.shift
        return member.calibration.log_odds(logits, prevalence=prevalence)


def basis_of(
    members: Sequence[Member],
    *,
    sensitivity: float,
    miss_rate: float | None,
    prevalence: float | None,
) -> Basis:
    """Return what the images are judged by.

    Args:
        members: the checkpoints.
        sensitivity: of the operating point, in (0, 1].
        miss_rate: the largest share of melanomas that may be called benign, or None.
        prevalence: share of melanomas among the images' population, in (0, 1), or None.

    Raises:
        ValueError: a share is out of range or not supported, or asks for a calibration that a
            checkpoint does not have.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError(f"prevalence: expected a share between 0 and 1, found {prevalence}")
    calibrations = [member.calibration for member in members if member.calibration]
    if len(calibrations) == len(members):
        reference = reference_of(calibrations)
        rule = rule_of(reference, sensitivity=sensitivity, miss_rate=miss_rate)
        return Basis(members, prevalence, sensitivity, miss_rate, reference, rule)
    basis = Basis(members, prevalence, sensitivity, miss_rate, None, None)
    for name, value in (("miss_rate", miss_rate), ("prevalence", prevalence)):
        if value is not None:
            raise ValueError(
                f"{name}: expected checkpoints with a calibration, found none in "
                f"{', '.join(basis.uncalibrated)}; leave --{name} out, or train anew"
            )
    return basis


def judge_files(
    files: Sequence[str],
    faults: Mapping[int, str],
    *,
    basis: Basis,
    said: Sequence[MemberScores],
    num_views: int,
    is_ageless: NDArray[np.bool_],
) -> pd.DataFrame:
    """Return the table of `Scores`.

    Args:
        files: their paths.
        faults: why files could not be read, by their place.
        basis: what they are judged by.
        said: what each of its members says of the files.
        num_views: over which the range is; 1 for none.
        is_ageless: (N,), where a member wants an age that is unknown.
    """
    read = np.array([place not in faults for place in range(len(files))])
    found = basis.odds(said, num_views, prevalence=basis.prevalence)
    odds, of_views = (each[..., read] for each in found)
    none: NDArray[np.float64] = np.full(len(odds), np.nan)
    numbers = dict.fromkeys(NUMBERS, none)
    numbers["probability"] = probabilities_of(odds)
    if num_views > 1:
        numbers["views_lower"] = probabilities_of(of_views.min(axis=0))
        numbers["views_upper"] = probabilities_of(of_views.max(axis=0))
    decisions = np.full(len(odds), None, dtype=object)
    notes = np.full(len(odds), "" if basis.rule else _RAW, dtype=object)
    rarity = np.array([scores.rarity[read] for scores in said])
    is_novel = _is_novel(rarity)
    if basis.reference and basis.rule:
        own = basis.odds(said, 1, prevalence=None)[0][read]
        numbers["lower"], numbers["upper"] = intervals(
            basis.reference, own, prevalence=basis.prevalence
        )
        decisions[:] = np.where(is_novel, REFER, basis.rule.decide(own))
    for place in np.flatnonzero(is_ageless[read]):
        notes[place] = _joined(f"age unknown, counts as {MIDDLE_AGE:g}", notes[place])
    for place in np.flatnonzero(is_novel):
        share = 1 - float(np.nanmedian(rarity[:, place]))
        text = f"no lesion? more unusual than {share:.1%} of the calibration lesions"
        notes[place] = _joined(text, notes[place])
    table = pd.DataFrame({**numbers, "decision": decisions, "note": notes})
    table = table.set_axis(np.flatnonzero(read)).reindex(range(len(files)))
    table["note"] = [faults.get(place, note) for place, note in enumerate(table["note"])]
    table.insert(0, "file", list(files))
    return table.astype({"file": "string", "decision": "string", "note": "string"})


def _is_novel(rarity: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (N,) whether more than half of the gates, (M, N), find an image too rare."""
    num_gates = np.count_nonzero(~np.isnan(rarity), axis=0)
    num_rare = np.count_nonzero(rarity <= FALSE_ALARMS, axis=0)
    is_novel: NDArray[np.bool_] = 2 * num_rare > num_gates
    return is_novel


def _joined(text: str, note: str) -> str:
    return f"{text}; {note}" if note else text
