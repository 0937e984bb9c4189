"""The judging half of `audit`: what is wrong with the records of a table, check by check.

Of records that cannot both stay the earlier one does, those of `--val` being the first, unless
nobody can tell which is right: then all of them are to go.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import pandas as pd

from lightning_melanoma.data.audit_fields import check_fields, sets_of_shards
from lightning_melanoma.data.audit_records import Finding, Inspection, place_of, record_of
from lightning_melanoma.data.fingerprint import HASH_BITS, NEAR_BITS, near_pairs

#: What is checked, in the order of the report.
CHECKS = {
    "framing": "checksums right, nothing cut off",
    "counts": "as many records as the shard's name says",
    "fields": "an image and an id; the same fields and types in all shards of a set",
    "targets": "0 or 1, in all records of a set or in none, the same for one id",
    "ids": "each image_name once, and on one side",
    "patients": "each patient on one side",
    "images": "decodable and square; of one size (warning)",
    "duplicates": "no two ids with equal bytes or equal pixels",
    "near duplicates": f"more than {NEAR_BITS} of {HASH_BITS} bits of the perceptual hash differ",
}

# Sizes that a warning names before it says "and so on".
_NAMED_SIZES = 4


def check_records(inspection: Inspection) -> list[Finding]:
    """Return all findings: those of the reading, and those of every check on the table."""
    checks: tuple[Callable[[Inspection], Iterator[Finding]], ...] = (
        check_fields,
        _check_targets,
        _check_labels,
        _check_ids,
        _check_patients,
        _check_images,
        _check_duplicates,
        _check_near_duplicates,
    )
    found = [*inspection.findings]
    if len(inspection.table):
        found += [finding for check in checks for finding in check(inspection)]
    return sorted(found, key=lambda finding: list(CHECKS).index(finding.check))


def _check_targets(inspection: Inspection) -> Iterator[Finding]:
    table = inspection.table
    for name, numbers in sets_of_shards(inspection).items():
        rows = table[table["shard"].isin(numbers)]
        missing = rows["target"].isna()
        if missing.any() and not missing.all():
            first = record_of(inspection, int(rows.index[missing][0]))
            yield Finding(
                "targets",
                f"{name}: expected a target in every record or in none, found none in "
                f"{missing.sum()} of {len(rows)}, the first {first}",
                drop=tuple(rows.index[missing]),
            )
    wrong = ~(_numbers(table).isin([0, 1]) | table["target"].isna())
    for row in table.index[wrong]:
        where = record_of(inspection, row)
        message = f"{where}: expected target 0 or 1, found {table['target'][row]}"
        yield Finding("targets", message, drop=(row,))


def _check_labels(inspection: Inspection) -> Iterator[Finding]:
    table = inspection.table
    targets = _numbers(table)
    again = table[table["image_name"].duplicated(keep=False)]
    for name, group in again.groupby("image_name", sort=False):
        rows = group.index
        if targets[rows].nunique() < 2:
            continue
        found = ", ".join(f"{targets[row]:g} in {place_of(inspection, row)}" for row in rows)
        message = f"{name}: expected one target for one id, found {found}"
        yield Finding("targets", message, drop=tuple(rows))


def _numbers(table: pd.DataFrame) -> "pd.Series[float]":
    return pd.to_numeric(table["target"], errors="coerce").astype(float)


def _check_ids(inspection: Inspection) -> Iterator[Finding]:
    table = inspection.table
    again = table[table["image_name"].duplicated(keep=False)]
    for name, rows in again.groupby("image_name", sort=False):
        what = f"once, found {len(rows)} times"
        if rows["is_val"].nunique() > 1:
            what = "on one side, found in --val and in the given shards"
        places = "; ".join(place_of(inspection, row) for row in rows.index)
        message = f"{name}: expected each image_name {what}: {places}"
        yield Finding("ids", message, drop=tuple(rows.index[1:]))


def _check_patients(inspection: Inspection) -> Iterator[Finding]:
    table = inspection.table
    known = table[table["patient"] != ""]
    in_val = known["is_val"].astype(bool)
    shared = known[
        known["patient"].isin(set(known["patient"][in_val]) & set(known["patient"][~in_val]))
    ]
    for patient, rows in shared.groupby("patient", sort=False):
        given = rows.index[~in_val[rows.index]]
        first = rows.index[0]
        message = (
            f"patient {patient}: expected on one side, found {len(given)} records of the given "
            f"shards and {len(rows) - len(given)} in --val, as {record_of(inspection, given[0])} "
            f"and {record_of(inspection, first)}"
        )
        yield Finding("patients", message, drop=tuple(given))


def _check_images(inspection: Inspection) -> Iterator[Finding]:
    table = inspection.table
    for row in table.index[table["error"].notna()]:
        message = f"{record_of(inspection, row)}: {table['error'][row]}"
        yield Finding("images", message, drop=(row,))
    width, height = table["image_width"], table["image_height"]
    known = table["error"].isna()
    for row in table.index[known & (width != height)]:
        message = (
            f"{record_of(inspection, row)}: expected a square image, found {width[row]} x "
            f"{height[row]}; it would be squeezed to a square"
        )
        yield Finding("images", message, drop=(row,))
    sizes = Counter(width[known & (width == height)])
    if len(sizes) > 1:
        common = sizes.most_common(_NAMED_SIZES)
        named = ", ".join(f"{size} x {size} pixels ({count:,})" for size, count in common)
        rest = " and so on" if len(sizes) > _NAMED_SIZES else ""
        yield Finding("images", f"expected one size, found {named}{rest}", is_fault=False)


def _check_duplicates(inspection: Inspection) -> Iterator[Finding]:
    # What is equal in bytes is equal in pixels, so it is named for its bytes only.
    table = inspection.table.drop_duplicates(["image_name", "content"])
    targets = _numbers(table)
    for column, what in (("content", "bytes"), ("pixels", "pixels")):
        firsts = table[table[column].notna()].drop_duplicates(column)
        first_of = dict(zip(firsts[column], firsts.index, strict=True))
        found = targets.groupby(table[column]).nunique()
        doubted = set(found.index[found > 1])
        for row in table.index[table[column].notna() & table[column].duplicated()]:
            first = first_of[table[column][row]]
            if table["image_name"][row] == table["image_name"][first]:
                continue
            is_doubted = table[column][row] in doubted
            doubt = "; copies of it have different targets" if is_doubted else ""
            message = (
                f"{record_of(inspection, row)}: expected an image of its own, found the {what} of "
                f"{record_of(inspection, first)}{doubt}"
            )
            # Of copies that contradict each other, nobody can tell which is right.
            yield Finding("duplicates", message, drop=(first, row) if is_doubted else (row,))
        table = table.drop_duplicates(column)


def _check_near_duplicates(inspection: Inspection) -> Iterator[Finding]:
    table = inspection.table.drop_duplicates("image_name")
    table = table[table["hash"].notna()].drop_duplicates("pixels")
    for pair in near_pairs(list(table["hash"])):
        later, earlier = table.index[pair.later], table.index[pair.earlier]
        message = (
            f"{record_of(inspection, later)}: {pair.num_bits} of {HASH_BITS} bits from "
            f"{record_of(inspection, earlier)}"
        )
        yield Finding("near duplicates", message, is_fault=False, drop=(later,))
