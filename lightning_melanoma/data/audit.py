"""The `audit` command: is a data set whole, consistent, and apart from what it is judged on?

Reading is in `audit_records`, the checks are in `audit_checks` and `audit_fields`, the tables in
`audit_report`. It reads every byte of every shard and changes none.
"""

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_melanoma.data.audit_checks import check_records
from lightning_melanoma.data.audit_records import inspect_shards
from lightning_melanoma.data.audit_report import build_report, drop_list, render_report
from lightning_melanoma.data.exclusion import Exclusion
from lightning_melanoma.records.files import atomic_file, prepare_file
from lightning_melanoma.records.remote import log_repeated
from lightning_melanoma.records.storage import find_shards


class Outcome(NamedTuple):
    """What a command has to say, and its exit status."""

    text: str
    exit_status: int


def audit(
    paths: Sequence[str],
    *,
    val: Sequence[str] | None = None,
    json: str | None = None,
    drop: str | None = None,
    exclude: str | list[str] | None = None,
    pixels: bool = True,
) -> Outcome:
    """Check shards for damage, contradictions, leaks into validation and images that come twice.

    Args:
        paths: shards, as paths, globs, folders or URLs.
        val: shards that must have no image and no patient in common with them.
        json: a file for the whole report.
        drop: a CSV file for the records that would have to go, which `data.exclude` takes: of two
            that cannot both stay, that of the given shards rather than that of `val`, else the
            later one. Near duplicates are in it as well, with that reason.
        exclude: what `data.exclude` takes: records that are not looked at.
        pixels: decode the images; false looks at checksums, fields and bytes only, which finds no
            damaged image and no duplicate that was encoded anew.

    Returns:
        The report to read, and exit status 1 if there is a fault, else 0.

    Raises:
        FileNotFoundError: a path matches no shard.
        ValueError: a shard is empty, `exclude` is not as it must be, or `json` and `drop` are the
            same file.
        OSError: a shard cannot be read, or a file cannot be written.
    """
    exclusion = Exclusion(exclude)
    val_shards = find_shards(val) if val else []
    # Validation first: of two equal images, the later one is to go.
    shards = [*val_shards, *find_shards(paths)]
    _prepare_files(json, drop)
    inspection = inspect_shards(shards, len(val_shards), exclusion=exclusion, pixels=pixels)
    log_repeated()
    exclusion.report("exclude", unknown="in none of the shards' records")
    findings = check_records(inspection)
    report = build_report(inspection, findings, pixels=pixels)
    if json is not None:
        _write(json, json_format.dumps(report, indent=1) + "\n")
    if drop is not None:
        _write(drop, drop_list(inspection, findings))
    return Outcome(render_report(report), report["exit_status"])


def _prepare_files(json: str | None, drop: str | None) -> None:
    if json is not None and drop is not None and Path(json).resolve() == Path(drop).resolve():
        raise ValueError(f"drop: expected another file than json, found {drop}; name another")
    for setting, path in (("json", json), ("drop", drop)):
        if path is not None:
            prepare_file(Path(path), setting=setting)


def _write(path: str, text: str) -> None:
    with atomic_file(Path(path)) as stream:
        stream.write(text.encode())
