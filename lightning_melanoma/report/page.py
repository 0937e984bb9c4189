"""One HTML page: everything inside, nothing fetched, readable on a phone, on a screen, in print."""

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import NamedTuple

import lightning_melanoma
from lightning_melanoma.callbacks.style import percent
from lightning_melanoma.report.estimates import Estimate
from lightning_melanoma.report.groups import MIN_POSITIVES
from lightning_melanoma.report.judgement import Group, Judgement, Settings
from lightning_melanoma.report.words import (
    AT_OPERATING_POINT,
    METRICS,
    answer,
    best_of,
    calibration_verdict,
    counts,
    interval,
    number,
    probability,
)

# What the subgroups are judged by, and how many digits that has.
_OF_GROUPS = {
    "auroc": ("AUROC", 3),
    "observed_to_expected": ("observed / expected", 2),
    "calibration_slope": ("calibration slope", 2),
}


class Picture(NamedTuple):
    """A figure as PNG, with the name of its file and what it shows."""

    name: str
    title: str
    png: bytes


def report_page(
    judgements: Sequence[Judgement],
    settings: Settings,
    pictures: Sequence[Picture],
    mistakes: Sequence[str] = (),
) -> str:
    """Return the page as HTML.

    Args:
        judgements: of the tables.
        settings: that they were judged by.
        pictures: the figures, in order.
        mistakes: the section of each table's, as HTML.
    """
    css = files("lightning_melanoma.report").joinpath("page.css").read_text(encoding="utf-8")
    body = [
        f"<header><h1>Evaluation of {_named(judgements)}</h1>",
        f'<p class="answer">{escape(answer(judgements))}</p>',
        f"<p>{escape(calibration_verdict(best_of(judgements)))}</p></header>",
        _metrics_section(judgements, settings),
        _operating_section(judgements, settings),
        _pictures_section(pictures),
        *mistakes,
        _recalibration_section(judgements),
        *(_groups_section(judgement, len(judgements)) for judgement in judgements),
        _notes_section(judgements, settings),
    ]
    # A percent sign stays with its number.
    text = "\n".join(body).replace(" %", "&nbsp;%")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # An empty icon: a browser would ask for one otherwise.
            '<link rel="icon" href="data:,">',
            f"<title>Evaluation of {_named(judgements)}</title>",
            f"<style>\n{css}</style>\n</head>\n<body>\n<main>",
            text,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _named(judgements: Sequence[Judgement]) -> str:
    return escape(", ".join(judgement.table.name for judgement in judgements))


def _metrics_section(judgements: Sequence[Judgement], settings: Settings) -> str:
    names = [name for name in METRICS if name not in AT_OPERATING_POINT]
    return "<section><h2>Metrics</h2>" + _metrics_table(judgements, names, settings) + "</section>"


def _operating_section(judgements: Sequence[Judgement], settings: Settings) -> str:
    how = f"the highest that finds {percent(settings.sensitivity)} of the melanomas of the table"
    if settings.threshold is not None:
        how = "as asked for"
    points = "; ".join(
        (f"{escape(j.table.name)}: " if len(judgements) > 1 else "") + probability(j.threshold)
        for j in judgements
    )
    names = [name for name in AT_OPERATING_POINT if name in judgements[0].estimates]
    return (
        "<section><h2>At the operating point</h2>"
        f"<p>Melanoma is called from this probability on ({how}): {points}.</p>"
        + _metrics_table(judgements, names, settings)
        + "</section>"
    )


def _metrics_table(
    judgements: Sequence[Judgement], names: Sequence[str], settings: Settings
) -> str:
    head = "".join(f'<th scope="col" class="name">{escape(j.table.name)}</th>' for j in judgements)
    rows = []
    for name in names:
        title, best, digits = METRICS[name]
        title = title.format(prevalence=percent(settings.prevalence or 0.0))
        cells = "".join(_estimate_cell(j.estimates[name], digits) for j in judgements)
        rows.append(f'<tr><th scope="row">{title} <small>best: {best}</small></th>{cells}</tr>')
    kind = "single" if len(judgements) == 1 else ""
    return _table(f'<th scope="col">metric</th>{head}', rows, kind=kind)


def _estimate_cell(estimate: Estimate, digits: int, *, label: str = "") -> str:
    span = interval(estimate, digits)
    detail = f" <small>{span}</small>" if span else ""
    # Where the head of the table is left out, on a phone, the label takes its place.
    labelled = f' data-label="{label}"' if label else ""
    return f"<td{labelled}><b>{number(estimate.value, digits)}</b>{detail}</td>"


def _pictures_section(pictures: Sequence[Picture]) -> str:
    shown = "\n".join(
        f'<figure><img alt="{escape(picture.title)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.png).decode()}"></figure>'
        for picture in pictures
    )
    return f'<section><h2>Figures</h2><div class="figures">\n{shown}\n</div></section>'


def _recalibration_section(judgements: Sequence[Judgement]) -> str:
    parts = []
    for judgement in judgements:
        found, name = judgement.recalibration, escape(judgement.table.name)
        if isinstance(found, str):
            parts.append(f"<p>No line can be fitted to {name}: {escape(found)}.</p>")
            continue
        parts.append(
            f"<p>{name}: a temperature of {number(found.line.temperature, 2)} and an offset of "
            f"{number(found.line.offset, 2)} in log-odds.</p>"
        )
        rows = [
            f'<tr><th scope="row">{METRICS[metric][0]}</th>'
            f"<td>{number(found.before[metric], METRICS[metric][2])}</td>"
            f"<td><b>{number(found.after[metric], METRICS[metric][2])}</b></td></tr>"
            for metric in found.before
        ]
        head = '<th scope="col">metric</th><th scope="col">as it is</th>'
        parts.append(_table(head + '<th scope="col">calibrated</th>', rows))
    note = (
        "an offset and a temperature fitted on four fifths of the patients and judged on the rest, "
        "five times over. One such line keeps the order of the images, and every metric of it"
    )
    return f"<section><h2>What calibrating would change</h2><p>Calibrated: {note}.</p>" + (
        "\n".join(parts) + "</section>"
    )


def _groups_section(judgement: Judgement, num_tables: int) -> str:
    if not judgement.groups:
        return ""
    of_table = f", {escape(judgement.table.name)}" if num_tables > 1 else ""
    head = "".join(f'<th scope="col">{title}</th>' for title, _ in _OF_GROUPS.values())
    head = f'<th scope="col">images</th>{head}'
    tables = [
        _table(
            f'<th scope="col">{escape(name)}</th>{head}',
            [_group_row(g) for g in groups],
            kind="groups",
        )
        for name, groups in judgement.groups.items()
    ]
    return f"<section><h2>Subgroups{of_table}</h2>" + "\n".join(tables) + "</section>"


def _group_row(group: Group) -> str:
    positives = f"{group.num_melanomas:,} melanoma{'s' * (group.num_melanomas != 1)}"
    cells = f'<td class="count"><span>{group.num_images:,}</span> <small>{positives}</small></td>'
    if group.estimates is None:
        reason = f"too small to score: fewer than {MIN_POSITIVES} melanomas"
        if group.num_melanomas >= MIN_POSITIVES:
            reason = "not scored: no benign image"
        cells += f'<td class="none" colspan="{len(_OF_GROUPS)}">{reason}</td>'
    else:
        for name, (title, digits) in _OF_GROUPS.items():
            cells += _estimate_cell(group.estimates[name], digits, label=title)
    return f'<tr><th scope="row">{escape(group.name)}</th>{cells}</tr>'


def _table(head: str, rows: Sequence[str], *, kind: str = "") -> str:
    body = "\n".join(rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _notes_section(judgements: Sequence[Judgement], settings: Settings) -> str:
    held = "".join(f"<li>{escape(j.table.name)}: {counts(j)}.</li>" for j in judgements)
    unit = "patients" if any(j.table.num_patients for j in judgements) else "images"
    lacking = [j.table.name for j in judgements if not j.table.num_patients]
    alone = ""
    if lacking:
        alone = (
            "<li>No patient is known in "
            f"{escape(', '.join(lacking))}: images were drawn singly, and if some are of one "
            "patient, the true intervals are wider.</li>"
        )
    chosen = ""
    if settings.threshold is None:
        chosen = (
            "<li>The operating point was set on the same images that it is judged on: expect a "
            "little less on others.</li>"
        )
    return (
        f'<section class="notes"><h2>How it was done</h2><ul>{held}'
        f"<li>Behind each number its 95 % interval: percentiles of {settings.num_draws:,} "
        f"bootstrap draws of {unit}. An AUROC, a sensitivity or a specificity of exactly 0 or 1 is "
        f"the same in nearly every draw: it has the exact bound for as many {unit}. Where fewer "
        f"than 2 {unit} have a class that the number is about, or all draws are alike, there is no "
        f"interval.</li>{alone}{chosen}"
        "<li>The calibration error has no interval: chance raises it above 0, in a bootstrap draw "
        "once more, so that the middle 95 % of draws may lie above it.</li>"
        "<li>Observed / expected: melanomas there are, over the sum of the probabilities; "
        "above 1 the probabilities are too low.</li></ul>"
        f"<p>lightning_melanoma {lightning_melanoma.__version__}. Research software, no medical "
        "device.</p></section>"
    )
