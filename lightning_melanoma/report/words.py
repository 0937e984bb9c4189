"""The numbers of a report in words: formats, and the sentence that it opens with."""

import math
from collections.abc import Sequence

from lightning_melanoma.callbacks.style import percent
from lightning_melanoma.report.estimates import Estimate
from lightning_melanoma.report.judgement import Judgement

#: Metrics in the order of the page: their name in it, what is best, and how many digits they have.
METRICS: dict[str, tuple[str, str, int]] = {
    "auroc": ("AUROC", "1; a guess: 0.5", 3),
    "average_precision": ("Average precision", "1; a guess: the prevalence", 3),
    "partial_auc": ("Partial AUC above 80 % sensitivity", "0.2; a guess: 0.02", 4),
    "sensitivity_at_specificity_90": ("Sensitivity at 90 % specificity", "1", 3),
    "sensitivity_at_specificity_95": ("Sensitivity at 95 % specificity", "1", 3),
    "specificity_at_sensitivity_90": ("Specificity at 90 % sensitivity", "1", 3),
    "specificity_at_sensitivity_95": ("Specificity at 95 % sensitivity", "1", 3),
    "log_loss": ("Log loss", "0", 4),
    "brier_score": ("Brier score", "0", 4),
    "calibration_error": ("Calibration error (ECE, 15 bins of equal count)", "0", 4),
    "calibration_slope": ("Calibration slope", "1", 2),
    "calibration_intercept": ("Calibration intercept", "0", 2),
    "observed_to_expected": ("Observed / expected melanomas", "1", 2),
    "sensitivity": ("Sensitivity", "1", 3),
    "specificity": ("Specificity", "1", 3),
    "number_needed_to_excise": ("Number needed to excise", "1", 1),
    "number_needed_to_excise_there": ("Number needed to excise at {prevalence} melanomas", "1", 1),
    "net_benefit": ("Net benefit (melanomas found an image)", "the prevalence; none excised: 0", 4),
}
#: The metrics that hold at the operating point only.
AT_OPERATING_POINT = (
    "sensitivity",
    "specificity",
    "number_needed_to_excise",
    "number_needed_to_excise_there",
    "net_benefit",
)


def number(value: float, digits: int) -> str:
    """Return a number with fixed digits; words where there is none."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "unbounded"
    # Without a false "-0.00".
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def probability(value: float) -> str:
    """Return a probability as a percentage of two significant digits, more next to 100 %.

    Thresholds are often below 1 %, where `percent` has too few digits to set one by.
    """
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.3g} %"


def interval(estimate: Estimate, digits: int) -> str:
    """Return the interval of a metric; nothing where there is none."""
    if math.isnan(estimate.low):
        return ""
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def answer(judgements: Sequence[Judgement]) -> str:
    """Return in one sentence what the tables are worth: the best ranks how well, at what cost."""
    best = best_of(judgements)
    area = best.estimates["auroc"]
    table = best.table
    subject = "the model" if len(judgements) == 1 else f"{table.name}, the best of them,"
    found, excised = (best.estimates[n] for n in ("sensitivity", "number_needed_to_excise"))
    cost = "no melanoma reaches the operating point"
    if found.value > 0:
        cost = (
            f"to find {percent(found.value)} of the melanomas, {number(excised.value, 1)} lesions "
            "are excised for each one found"
        )
    span = "too few or too alike for an interval"
    if not math.isnan(area.low):
        span = f"95 % interval {percent(area.low)} to {percent(area.high)}"
    return (
        f"On {counts(best)}, {subject} ranks a melanoma above a benign lesion in "
        f"{percent(area.value)} of pairs ({span}); {cost}."
    )


def calibration_verdict(judgement: Judgement) -> str:
    """Return in one sentence whether the probabilities mean what they say, on the whole."""
    ratio = judgement.estimates["observed_to_expected"]
    span = f"95 % interval {interval(ratio, 2)}; best: 1"
    if math.isnan(ratio.low):
        return f"Its probabilities promise 1 melanoma for each {number(ratio.value, 2)} there are."
    if ratio.low <= 1 <= ratio.high:
        verdict = "right on the whole, as far as these images can tell"
    else:
        verdict = "too high on the whole" if ratio.value < 1 else "too low on the whole"
    return (
        f"Its probabilities are {verdict}: {number(ratio.value, 2)} melanomas for each one that "
        f"they promise ({span})."
    )


def best_of(judgements: Sequence[Judgement]) -> Judgement:
    """Return the one of the highest AUROC."""
    return max(judgements, key=lambda judgement: judgement.estimates["auroc"].value)


def counts(judgement: Judgement) -> str:
    """Return how much a table holds."""
    table = judgement.table
    num_melanomas = int(table.is_melanoma.sum())
    patients = f" of {table.num_patients:,} patients" if table.num_patients else ""
    return (
        f"{len(table.is_melanoma):,} images{patients} with {num_melanomas:,} "
        f"melanoma{'s' * (num_melanomas != 1)}"
    )
