"""The people of the embedded demo data: who has which lesions in which shard, in Kaggle's tables.

Patients have 1 to 20 lesions and are never in two shards. Sex, age and site are spread as in the
train.csv of SIIM-ISIC 2020 (33,126 images) and say a little about the label, by the log odds below.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Columns of Kaggle's test.csv and train.csv.
TEST_COLUMNS = ["image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"]
TRAIN_COLUMNS = [*TEST_COLUMNS, "diagnosis", "benign_malignant", "target"]

_MAX_LESIONS = 20
# Geometric number of lesions: 5 on average before the cut at 20.
_LAST_LESION = 0.2


class _Site(NamedTuple):
    name: str | None
    num_images: int
    log_odds: float


# The numbers are Kaggle's; the log odds of melanoma, against the torso, are ours.
_SITES = (
    _Site("torso", 16845, 0.0),
    _Site("lower extremity", 8417, -0.1),
    _Site("upper extremity", 4983, 0.2),
    _Site("head/neck", 1855, 0.8),
    _Site("palms/soles", 375, -0.1),
    _Site("oral/genital", 124, 0.0),
    _Site(None, 527, 0.0),
)
# Diagnoses of benign images and Kaggle's numbers of them.
_BENIGN = {"unknown": 27124, "nevus": 5193, "seborrheic keratosis": 135, "lentigo NOS": 44}
# Log odds of a year of age and of being male. With the sites, an AUROC of 0.65 (n = 40,000);
# Kaggle's metadata alone gave 0.64 to 0.67.
_AGE_LOG_ODDS, _MALE_LOG_ODDS = 0.03, 0.25
# Years: mean and standard deviation of Kaggle's.
_AGE_MEAN, _AGE_DEVIATION = 49, 14
_MALE_SHARE = 0.52
# Share of patients whose sex and age are missing.
_MISSING_SHARE = 0.01


def draw_tables(
    rng: np.random.Generator,
    *,
    train_sizes: Sequence[int],
    test_sizes: Sequence[int],
    prevalence: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of the training and of the test images, in the order of the records.

    Args:
        rng: source of all that is drawn.
        train_sizes: images of each training shard.
        test_sizes: images of each test shard.
        prevalence: share of melanomas, in (0, 1).

    Returns:
        Two tables of `TRAIN_COLUMNS` and ``shard``, ``patient``, ``lesion``: numbers from 0, those
        of patients over both tables, those of lesions within a patient.
    """
    train = _draw_table(rng, train_sizes, prevalence=prevalence, first_patient=0)
    test = _draw_table(
        rng, test_sizes, prevalence=prevalence, first_patient=int(train["patient"].max()) + 1
    )
    numbers = rng.permutation(len(train) + len(test))
    train["image_name"], test["image_name"] = np.split(
        np.array([f"DEMO_{number:07d}" for number in numbers], object), [len(train)]
    )
    return train, test


def record_codes(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return the integer fields of each record, by image name.

    The codes are those of the field's own TFRecords: pandas.factorize over train and test together,
    -1 where missing; an age that is missing is the mean of all, cut to an integer. Test records
    have neither ``target`` nor ``diagnosis``.
    """
    both = pd.concat([train, test], ignore_index=True)
    codes = pd.DataFrame(index=both["image_name"])
    for column in ("patient_id", "sex", "anatom_site_general_challenge", "diagnosis"):
        codes[column] = pd.factorize(both[column])[0]
    age = both["age_approx"]
    codes["age_approx"] = age.fillna(age.mean()).to_numpy(int)
    codes["target"] = both["target"].to_numpy(int)
    labels = ["target", "diagnosis"]
    rows = codes.iloc[: len(train)].to_dict("index")
    rows |= codes.iloc[len(train) :].drop(columns=labels).to_dict("index")
    return {str(name): {str(key): int(row[key]) for key in row} for name, row in rows.items()}


def _draw_table(
    rng: np.random.Generator, sizes: Sequence[int], *, prevalence: float, first_patient: int
) -> pd.DataFrame:
    shards = []
    for shard, num_positives in enumerate(_spread(sizes, prevalence)):
        table = _draw_patients(rng, sizes[shard], first_patient=first_patient)
        first_patient = int(table["patient"].max()) + 1
        # The k highest of log odds plus Gumbel noise are a draw of k without replacement.
        chance = _log_odds(table) + rng.gumbel(size=len(table))
        table["target"] = 0
        table.loc[np.argsort(-chance)[:num_positives], "target"] = 1
        table["shard"] = shard
        shards.append(table.iloc[rng.permutation(len(table))])
    table = pd.concat(shards, ignore_index=True)
    is_melanoma = table["target"] == 1
    benign = np.array(list(_BENIGN), object)[_choose(rng, list(_BENIGN.values()), len(table))]
    table["diagnosis"] = np.where(is_melanoma, "melanoma", benign)
    table["benign_malignant"] = np.where(is_melanoma, "malignant", "benign")
    return table


def _spread(sizes: Sequence[int], prevalence: float) -> list[int]:
    # Rounding the running total keeps shards, and strides of shards, close to their share.
    total = round(prevalence * sum(sizes))
    running = np.floor(np.cumsum([0, *sizes]) * (total / sum(sizes)) + 0.5)
    return [int(count) for count in np.diff(running)]


def _draw_patients(
    rng: np.random.Generator, num_lesions: int, *, first_patient: int
) -> pd.DataFrame:
    counts: list[int] = []
    while sum(counts) < num_lesions:
        # The last patient has as many as still fit.
        most = min(_MAX_LESIONS, num_lesions - sum(counts))
        counts.append(min(int(rng.geometric(_LAST_LESION)), most))
    who = np.repeat(np.arange(len(counts)), counts)
    is_known = rng.random(len(counts)) >= _MISSING_SHARE
    sex = np.where(rng.random(len(counts)) < _MALE_SHARE, "male", "female").astype(object)
    age = rng.normal(_AGE_MEAN, _AGE_DEVIATION, len(counts))
    # Kaggle's ages are in steps of 5 years, from 10 to 90.
    age = np.clip(np.round(age / 5) * 5, 10, 90)
    sex[~is_known], age[~is_known] = None, np.nan
    sites = _choose(rng, [site.num_images for site in _SITES], num_lesions)
    return pd.DataFrame(
        {
            "patient": first_patient + who,
            "lesion": np.concatenate([np.arange(count) for count in counts]),
            "patient_id": [f"IP_{patient:07d}" for patient in first_patient + who],
            "sex": sex[who],
            "age_approx": age[who],
            "anatom_site_general_challenge": np.array([s.name for s in _SITES], object)[sites],
        }
    )


def _choose(rng: np.random.Generator, weights: Sequence[int], count: int) -> NDArray[np.int64]:
    return rng.choice(len(weights), count, p=np.array(weights) / sum(weights))


def _log_odds(table: pd.DataFrame) -> NDArray[np.float64]:
    of_site = {site.name: site.log_odds for site in _SITES}
    site = [of_site[name] for name in table["anatom_site_general_challenge"]]
    age = _AGE_LOG_ODDS * table["age_approx"].fillna(_AGE_MEAN)
    male = _MALE_LOG_ODDS * (table["sex"] == "male")
    return np.asarray(age + male + site, np.float64)
