"""What `audit` found, as a table to read, as JSON, and as a list of records to drop."""

import csv
import io
from collections.abc import Sequence
from typing import TypedDict

from lightning_melanoma.data.audit_checks import CHECKS
from lightning_melanoma.data.audit_fields import count_fields, sets_of_shards
from lightning_melanoma.data.audit_prevalence import PrevalenceEntry, count_melanomas
from lightning_melanoma.data.audit_records import Finding, Inspection

# Findings of one check that the table to read shows; JSON has them all.
_SHOWN = 20


class CheckSummary(TypedDict):
    """One check: its name, what it asks for, how much it found; None where it was not made."""

    check: str
    expects: str
    faults: int | None
    warnings: int | None


class FoundEntry(TypedDict):
    """One finding, and the ids that would have to go."""

    check: str
    level: str
    message: str
    drop: list[str]


class FieldEntry(TypedDict):
    """One field of a set of shards: its kinds, and how many of the set's records have it."""

    shards: str
    field: str
    kinds: str
    found: int
    records: int


class Report(TypedDict):
    """All that `audit` tells; `pixels` is False where images were not decoded."""

    exit_status: int
    shards: int
    val_shards: int
    records: int
    val_records: int
    damaged: int
    bytes: int
    pixels: bool
    checks: list[CheckSummary]
    findings: list[FoundEntry]
    fields: list[FieldEntry]
    prevalence: list[PrevalenceEntry]


def build_report(inspection: Inspection, findings: Sequence[Finding], *, pixels: bool) -> Report:
    """Return the report of what was read and found."""
    names = inspection.table["image_name"]
    num_val = int(inspection.table["is_val"].sum())
    return Report(
        exit_status=int(any(finding.is_fault for finding in findings)),
        shards=len(inspection.shards) - inspection.num_val,
        val_shards=inspection.num_val,
        records=len(inspection.table) - num_val,
        val_records=num_val,
        damaged=sum(inspection.num_damaged),
        bytes=sum(shard.size for shard in inspection.shards),
        pixels=pixels,
        checks=[_summary(check, findings, pixels=pixels) for check in CHECKS],
        findings=[
            FoundEntry(
                check=finding.check,
                level="fault" if finding.is_fault else "warning",
                message=finding.message,
                drop=[str(names[row]) for row in finding.drop],
            )
            for finding in findings
        ],
        fields=_fields(inspection),
        prevalence=count_melanomas(inspection),
    )


def render_report(report: Report) -> str:
    """Return the report as text to read: checks, findings, fields, prevalence."""
    parts = [
        _size(report),
        _aligned(
            ["check", "faults", "warnings", "expects"],
            [
                [c["check"], _or_dash(c["faults"]), _or_dash(c["warnings"]), c["expects"]]
                for c in report["checks"]
            ],
        ),
        *_shown(report["findings"]),
        _aligned(
            ["shards", "field", "kind", "records"],
            [
                [f["shards"], f["field"], f["kinds"], f"{f['found']:,} of {f['records']:,}"]
                for f in report["fields"]
            ],
        ),
        _aligned(
            ["by", "value", "records", "labelled", "melanomas", "prevalence"],
            [
                [
                    p["by"],
                    p["value"],
                    f"{p['records']:,}",
                    f"{p['labelled']:,}",
                    _or_dash(p["melanomas"]),
                    "-" if p["prevalence"] is None else f"{p['prevalence']:.2%}",
                ]
                for p in report["prevalence"]
            ],
        ),
        _verdict(report),
    ]
    return "\n\n".join(part for part in parts if part)


def drop_list(inspection: Inspection, findings: Sequence[Finding]) -> str:
    """Return the records to drop as CSV: ``image_name, shard, record, reason``."""
    reasons: dict[int, dict[str, None]] = {}
    for finding in findings:
        for row in finding.drop:
            reasons.setdefault(row, {})[finding.check] = None
    table = inspection.table
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_name", "shard", "record", "reason"])
    for row in sorted(reasons):
        name, shard, record = (table[column][row] for column in ("image_name", "shard", "record"))
        writer.writerow([name, inspection.labels[int(shard)], record, ", ".join(reasons[row])])
    return text.getvalue()


def _summary(check: str, findings: Sequence[Finding], *, pixels: bool) -> CheckSummary:
    levels = [finding.is_fault for finding in findings if finding.check == check]
    is_made = pixels or check != "near duplicates"
    return CheckSummary(
        check=check,
        expects=CHECKS[check],
        faults=sum(levels) if is_made else None,
        warnings=len(levels) - sum(levels) if is_made else None,
    )


def _shown(findings: Sequence[FoundEntry]) -> list[str]:
    parts = []
    for check in CHECKS:
        lines = [f"  {f['level']}: {f['message']}" for f in findings if f["check"] == check]
        rest = len(lines) - _SHOWN
        if lines:
            more = [f"  and {rest:,} more, all of them in --json FILE"] if rest > 0 else []
            parts.append("\n".join([f"{check}:", *lines[:_SHOWN], *more]))
    return parts


def _size(report: Report) -> str:
    text = f"{_counted(report['records'], 'record')} in {_counted(report['shards'], 'shard')}"
    if report["val_shards"]:
        val_records = _counted(report["val_records"], "record")
        text += f"; in --val {val_records} in {_counted(report['val_shards'], 'shard')}"
    text += f"; {report['bytes'] / 1e6:,.1f} MB"
    return text if report["pixels"] else f"{text}; images not decoded"


def _or_dash(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _verdict(report: Report) -> str:
    faults = sum(check["faults"] or 0 for check in report["checks"])
    warnings = sum(check["warnings"] or 0 for check in report["checks"])
    return f"{_counted(faults, 'fault')}, {_counted(warnings, 'warning')}."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _fields(inspection: Inspection) -> list[FieldEntry]:
    shard = inspection.table["shard"]
    return [
        FieldEntry(
            shards=name,
            field=field,
            kinds=", ".join(sorted(kinds)),
            found=sum(kinds.values()),
            records=int(shard.isin(numbers).sum()),
        )
        for name, numbers in sets_of_shards(inspection).items()
        for field, kinds in count_fields(inspection, numbers).items()
    ]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_count = [
        all(row[number][:1].isdigit() or row[number] == "-" for row in cells[1:])
        and name not in ("value", "shards")
        for number, name in enumerate(head)
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_count, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)
