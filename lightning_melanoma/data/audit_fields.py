"""The fields of the records, and how they change from shard to shard and from set to set.

A set is the shards of one folder whose names begin alike (``train*``): they are written at once, so
they hold the same fields. Two sets may differ, but who trains on both is told.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from lightning_melanoma.data.audit_records import Finding, Inspection
from lightning_melanoma.records.storage import short_labels

# Fields whose absence from some shards of a set makes training go wrong.
_LEARNT_FROM = ("target", "patient_id")
# Fields that records to be predicted do not have.
_ANSWERS = ("target", "diagnosis")

#: In how many records each field is stored as which kind, by the field's name.
FieldCounts = dict[str, Counter[str]]


def sets_of_shards(inspection: Inspection) -> dict[str, list[int]]:
    """Return the numbers of the shards of each set, by its folder and the start of its names."""
    sets: dict[str, list[int]] = defaultdict(list)
    for number, shard in enumerate(inspection.shards):
        start = re.match(r"\D*", shard.name)
        sets[f"{shard.url.removesuffix(shard.name)}{start[0] if start else ''}*"].append(number)
    return dict(zip(short_labels(list(sets)), sets.values(), strict=True))


def count_fields(inspection: Inspection, shards: Sequence[int]) -> FieldCounts:
    """Return the fields of the records of some shards, in order of name."""
    table = inspection.table
    counts: FieldCounts = defaultdict(Counter)
    for text, number in table["fields"][table["shard"].isin(shards)].value_counts().items():
        for pair in str(text).split():
            name, _, kind = pair.rpartition(":")
            counts[name][kind] += int(number)
    return {name: counts[name] for name in sorted(counts)}


def check_fields(inspection: Inspection) -> Iterator[Finding]:
    """Yield what changes within a set, and between sets."""
    sets: dict[str, FieldCounts] = {}
    for name, numbers in sets_of_shards(inspection).items():
        counts = {number: count_fields(inspection, [number]) for number in numbers}
        by_shard = {
            inspection.labels[number]: fields for number, fields in counts.items() if fields
        }
        yield from _changes_within(by_shard)
        sets[name] = count_fields(inspection, numbers)
    yield from _changes_between({name: fields for name, fields in sets.items() if fields})


def _changes_within(by_shard: Mapping[str, FieldCounts]) -> Iterator[Finding]:
    for field in sorted({field for fields in by_shard.values() for field in fields}):
        having = {label: fields[field] for label, fields in by_shard.items() if field in fields}
        usual = _is_text(next(iter(having.values())))
        odd = [label for label, kinds in having.items() if _is_mixed(kinds)]
        odd += [label for label, kinds in having.items() if _is_text(kinds) != usual]
        if odd:
            yield Finding(
                "fields",
                f"{field}: expected text or numbers throughout a set, found both, from shard "
                f"{odd[0]} on; write the shards anew from one table",
            )
        lacking = [label for label in by_shard if label not in having]
        if lacking:
            yield Finding(
                "fields",
                f"{field}: expected in all shards of a set or in none, found in {len(having)} of "
                f"{len(by_shard)}, not in {lacking[0]}",
                is_fault=field in _LEARNT_FROM,
            )


def _changes_between(sets: Mapping[str, FieldCounts]) -> Iterator[Finding]:
    for field in sorted({field for fields in sets.values() for field in fields}):
        text = [
            name for name, fields in sets.items() if field in fields and _is_text(fields[field])
        ]
        having = [name for name, fields in sets.items() if field in fields]
        lacking = [name for name in sets if name not in having]
        if lacking and field not in _ANSWERS:
            message = f"{field}: found in {having[0]}, not in {lacking[0]}"
            yield Finding("fields", message, is_fault=False)
        numbers = [name for name in having if name not in text]
        if text and numbers:
            message = f"{field}: text in {text[0]}, numbers in {numbers[0]}, taken as different"
            yield Finding("fields", message, is_fault=False)


def _is_text(kinds: Counter[str]) -> bool:
    return "bytes" in kinds


def _is_mixed(kinds: Counter[str]) -> bool:
    # Whole numbers and fractions may stand side by side: ages do.
    return _is_text(kinds) and len(kinds) > 1
