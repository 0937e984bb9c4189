"""The command `evaluate`: from prediction tables to metrics.json, PNGs and one report.html."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import lightning_melanoma
from lightning_melanoma.records.files import atomic_folder
from lightning_melanoma.report import curves, outcomes
from lightning_melanoma.report.estimates import Estimate
from lightning_melanoma.report.gallery import mistakes_section
from lightning_melanoma.report.judgement import Judgement, Settings, judge
from lightning_melanoma.report.mistakes import Mistakes, mistakes_of, read_pictures
from lightning_melanoma.report.page import Picture, report_page
from lightning_melanoma.report.recalibration import Recalibration
from lightning_melanoma.report.tables import read_tables
from lightning_melanoma.report.words import answer

_log = logging.getLogger(__name__)

# Pixels an inch: sharp on a phone's screen and in print.
_DPI = 170
_OF_ALL: dict[str, tuple[Callable[[Sequence[Judgement]], Figure], str]] = {
    "roc": (curves.roc_figure, "ROC curve"),
    "precision_recall": (curves.precision_recall_figure, "Precision-recall curve"),
    "reliability": (curves.reliability_figure, "Reliability diagram"),
    "decision_curve": (curves.decision_curve_figure, "Decision curve"),
}
_OF_EACH: dict[str, tuple[Callable[[Judgement], Figure], str]] = {
    "histograms": (outcomes.histograms_figure, "Histograms of the probability by class"),
    "confusion": (outcomes.confusion_figure, "Confusion matrix at the operating point"),
}


def evaluate(
    predictions: list[str] | str,
    out: str,
    labels: str | None = None,
    *,
    sensitivity: float = 0.95,
    threshold: float | None = None,
    prevalence: float | None = None,
    num_draws: int = 2000,
    seed: int = 0,
    images: list[str] | str | None = None,
    anonymous: bool = False,
) -> None:
    """Judge prediction tables: metrics with intervals, figures, and one page that tells it all.

    Args:
        predictions: prediction tables, as `fit` and `predict` write them; several become columns.
        out: folder for `metrics.json`, the PNGs and `report.html`; new or empty.
        labels: CSV with `image_name` and `target` for tables without targets, such as a
            competition's solution; its other columns fill in what the tables leave empty.
        sensitivity: the operating point calls melanoma from the highest probability on that finds
            this share of the table's melanomas.
        threshold: the operating point by its probability, instead.
        prevalence: also tell the number needed to excise in a population of this share of
            melanomas.
        num_draws: bootstrap draws of patients.
        seed: of the draws, 0 or more.
        images: shards with the images, to show the most confident mistakes: paths, globs, folders
            or URLs.
        anonymous: leave the most confident mistakes out of what is written, which has no id and no
            picture of an image then.

    Raises:
        ValueError: a table or a setting is not as it must be.
        OSError: a file cannot be read, or `out` not be written.
    """
    paths = [predictions] if isinstance(predictions, str) else predictions
    if num_draws < 1:
        raise ValueError(f"num_draws: expected 1 or more, found {num_draws}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, found {seed}")
    if anonymous and images:
        raise ValueError("anonymous: expected no images with it, found some; leave one of them out")
    settings = Settings(sensitivity, threshold, prevalence, num_draws, seed)
    with atomic_folder(Path(out)) as folder:
        judgements = [judge(table, settings) for table in read_tables(paths, labels)]
        mistakes = [] if anonymous else [mistakes_of(judgement) for judgement in judgements]
        numbers = _as_json(judgements, settings, mistakes)
        text = json.dumps(numbers, indent=2, allow_nan=False)
        (folder / "metrics.json").write_text(text + "\n")
        sections = _mistakes_sections(judgements, mistakes, images)
        page = report_page(judgements, settings, _draw(judgements, folder), sections)
        (folder / "report.html").write_text(page, encoding="utf-8")
    _log.info("%s", answer(judgements))
    _log.info("%s", Path(out) / "report.html")


def _draw(judgements: Sequence[Judgement], folder: Path) -> list[Picture]:
    drawn = [(name, draw(judgements), title) for name, (draw, title) in _OF_ALL.items()]
    for place, judgement in enumerate(judgements):
        for name, (draw_one, title) in _OF_EACH.items():
            # Named by number: a table's name may hold a slash.
            suffix = f"_{place + 1}" if len(judgements) > 1 else ""
            of_table = f"{title}, {judgement.table.name}" if suffix else title
            drawn.append((name + suffix, draw_one(judgement), of_table))
    pictures = []
    for name, figure, title in drawn:
        stream = BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI)
        (folder / f"{name}.png").write_bytes(stream.getvalue())
        pictures.append(Picture(name, title, stream.getvalue()))
    return pictures


def _mistakes_sections(
    judgements: Sequence[Judgement], mistakes: Sequence[Mistakes], images: list[str] | str | None
) -> list[str]:
    pictures = {}
    if images:
        shown = dict.fromkeys(one.image_name for of in mistakes for side in of for one in side)
        pictures = read_pictures([images] if isinstance(images, str) else images, list(shown))
    names = [judgement.table.name if len(judgements) > 1 else "" for judgement in judgements]
    return [
        mistakes_section(of_table, pictures, table_name=name)
        for of_table, name in zip(mistakes, names, strict=False)
    ]


def _as_json(
    judgements: Sequence[Judgement], settings: Settings, mistakes: Sequence[Mistakes]
) -> dict[str, Any]:
    tables = [_table_as_json(judgement) for judgement in judgements]
    for table, of_table in zip(tables, mistakes, strict=False):
        table["mistakes"] = {
            side: [
                {"image_name": mistake.image_name, "probability": mistake.probability}
                for mistake in getattr(of_table, side)
            ]
            for side in Mistakes._fields
        }
    return {
        "version": lightning_melanoma.__version__,
        "interval": "95 %, percentiles of a bootstrap over patients; exact where a rate is 0 or 1",
        "settings": settings._asdict(),
        "tables": tables,
    }


def _table_as_json(judgement: Judgement) -> dict[str, Any]:
    table = judgement.table
    return {
        "name": table.name,
        "num_images": len(table.is_melanoma),
        "num_patients": table.num_patients or None,
        "num_melanomas": int(table.is_melanoma.sum()),
        "threshold": judgement.threshold,
        "confusion": outcomes.confusion_counts(judgement).tolist(),
        "metrics": _estimates_as_json(judgement.estimates),
        "recalibration": _recalibration_as_json(judgement.recalibration),
        "groups": {
            name: [
                {
                    "name": group.name,
                    "num_images": group.num_images,
                    "num_melanomas": group.num_melanomas,
                    "metrics": group.estimates and _estimates_as_json(group.estimates),
                }
                for group in groups
            ]
            for name, groups in judgement.groups.items()
        },
    }


def _recalibration_as_json(found: Recalibration | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"impossible": found}
    return {
        "offset": found.line.offset,
        "temperature": found.line.temperature,
        "before": found.before,
        "after": found.after,
    }


def _estimates_as_json(estimates: dict[str, Estimate]) -> dict[str, dict[str, float | None]]:
    # JSON has neither NaN nor infinity: what is undefined or unbounded is null.
    return {
        name: {
            part: number if math.isfinite(number) else None
            for part, number in estimate._asdict().items()
        }
        for name, estimate in estimates.items()
    }
