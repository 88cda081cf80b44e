"""Patient-disjoint, stratified splits: a pure function of ids and a seed."""

import collections
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from lungseg_jax import terminal
from lungseg_jax.config import NUM_FOLDS
from lungseg_jax.errors import ConfigError
from lungseg_jax.paths import read_file
from tfds_builder.outcome import Outcome

# The share of patients held out; training has the rest.
HELD_OUT_SHARES = {"val": 0.1, "test": 0.2}
SPLITS = ("train", "val", "test")

# A message is printed if one patient has more images than this number and this share of all: these
# are more often of many patients under one number than of one who was ill for long.
MOST_IMAGES = 20
MOST_SHARE = 0.05


def assign_splits(taken: Sequence[Outcome], seed: int) -> dict[str, list[str]]:
    """Returns the example ids of each split.

    All images of a patient go to one split, and so do copies of one file. Within each stratum
    (source and finding; a patient with any abnormal image counts as abnormal) patients are
    ordered by a hash of seed and id, and the first ones are held out. Patients with
    copies of one file count as one, whose id is that of their first image by id. If it is a keyed
    hash, that image stands for it, because splits must not depend on the key.

    Raises:
      ConfigError: too few patients for three splits.
    """
    by_patient, strata = _strata(taken, seed)
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    # Rounding errors are carried from one stratum to the next, so that many small strata cannot
    # starve a split.
    owed = dict.fromkeys(HELD_OUT_SHARES, 0.0)
    for patients in strata:
        start = 0
        for name, share in HELD_OUT_SHARES.items():
            owed[name] += share * len(patients)
            count = min(round(owed[name]), len(patients) - start)
            owed[name] -= count
            splits[name] += _example_ids(patients[start : start + count], by_patient)
            start += count
        splits["train"] += _example_ids(patients[start:], by_patient)
    return _checked("data.splits", splits, taken, by_patient)


def assign_fold(taken: Sequence[Outcome], seed: int, fold: int) -> dict[str, list[str]]:
    """Returns the example ids of each split of a fold of `NUM_FOLDS`.

    The folds' test splits together hold every image once. Patients and strata are treated as in
    `assign_splits`: in the order of strata and hashes, every tenth patient is held out for
    validation and two of ten for the test, different ones in each fold.

    Raises:
      ConfigError: too few patients for three splits.
    """
    by_patient, strata = _strata(taken, seed)
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    for position, patient_id in enumerate(itertools.chain.from_iterable(strata)):
        turn = (position - 2 * fold) % (2 * NUM_FOLDS)
        name = "test" if turn < 2 else "val" if turn == 2 else "train"
        splits[name] += _example_ids([patient_id], by_patient)
    return _checked("fold", splits, taken, by_patient)


def read_split_file(path: epath.PathLike) -> dict[str, list]:
    """Returns the content of a split file, without comparing its ids with any data.

    Raises:
      ConfigError: the file is not readable, or not a split file.
    """
    try:
        splits = json.loads(read_file(epath.Path(path).expanduser()))
    except FileNotFoundError as error:
        raise ConfigError(
            path, "no such file", "see configs/splits/ for those there are"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(path, f"not readable as JSON ({error})", _FORM) from error
    if not isinstance(splits, dict) or set(splits) != set(SPLITS):
        raise ConfigError(path, "does not have just the keys train, val and test", _FORM)
    for name, ids in splits.items():
        if not isinstance(ids, list) or not ids:
            raise ConfigError(path, f"split {name} is empty or no list", _FORM)
    return splits


def read_splits(path: epath.PathLike, outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """Returns the splits written in a JSON file `{"train": [id…], "val": […], "test": […]}`.

    Examples that the file does not name are left out. Those that it names but that were not taken
    are dropped with a notice.

    Raises:
      ConfigError: it is not such a file, an id is unknown, a patient is in two splits, or none of a
        split's images was taken.
    """
    splits = read_split_file(path)
    patient_of = {outcome.example_id: outcome.patient_id for outcome in outcomes}
    first_of: dict[str, tuple[str, str]] = {}
    for name, ids in splits.items():
        for example_id in ids:
            if not isinstance(example_id, str) or example_id not in patient_of:
                raise ConfigError(
                    path, f"{name} lists {example_id!r}, which is not in the data", "correct the id"
                )
            patient_id = patient_of[example_id]
            other_name, other_id = first_of.setdefault(patient_id, (name, example_id))
            if other_name != name:
                raise ConfigError(
                    path,
                    f"patient {patient_id} is in {other_name} ({other_id}) and in {name} "
                    f"({example_id})",
                    "keep each patient's images in one split",
                )
    dropped = {
        outcome.example_id: outcome.fault for outcome in outcomes if outcome.status != "taken"
    }
    kept = {name: sorted(set(splits[name]) - dropped.keys()) for name in SPLITS}
    if lost := sorted(dropped.keys() & itertools.chain(*splits.values())):
        terminal.say(
            f"{path}: {len(lost)} of its images are left out, "
            f"such as {lost[0]} ({dropped[lost[0]]})"
        )
    for name, ids in kept.items():
        if not ids:
            fault = f"every image of split {name} is left out, such as {splits[name][0]}"
            raise ConfigError(path, fault, f"name others, or fix them: {dropped[splits[name][0]]}")
    return kept


def _strata(
    taken: Sequence[Outcome], seed: int
) -> tuple[Mapping[str, list[Outcome]], list[list[str]]]:
    """Returns each patient's images, and the patients of each stratum in a random order."""
    by_patient = _by_patient(taken)
    strata = collections.defaultdict(list)
    for patient_id, images in by_patient.items():
        # min() because "abnormal" sorts before "normal" and "unknown".
        stratum = min(one.source for one in images), min(one.finding for one in images)
        strata[stratum].append(patient_id)
    for patients in strata.values():
        patients.sort(key=lambda patient_id: _hash(seed, by_patient[patient_id]))
    return by_patient, [patients for _, patients in sorted(strata.items())]


def _by_patient(taken: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Returns the images of each patient; patients with copies of one file count as one."""
    merged: dict[str, str] = {}

    def known_as(patient_id: str) -> str:
        while (other := merged.get(patient_id, patient_id)) != patient_id:
            patient_id = other
        return patient_id

    first_with: dict[str, str] = {}
    for outcome in taken:
        image = outcome.image_digest or outcome.example_id
        one = known_as(first_with.setdefault(image, outcome.patient_id))
        other = known_as(outcome.patient_id)
        merged[max(one, other)] = min(one, other)
    by_patient = collections.defaultdict(list)
    for outcome in taken:
        by_patient[known_as(outcome.patient_id)].append(outcome)
    return by_patient


def _checked(
    key: str,
    splits: dict[str, list[str]],
    taken: Sequence[Outcome],
    by_patient: Mapping[str, Sequence[Outcome]],
) -> dict[str, list[str]]:
    """Returns the splits sorted.

    Raises:
      ConfigError: one of them is empty.
    """
    empty = [name for name, ids in splits.items() if not ids]
    if empty:
        raise ConfigError(
            key,
            f"{len(by_patient)} patients leave the {' and '.join(empty)} split empty",
            _remedy_of_few(key, taken),
        )
    largest = max(by_patient.values(), key=len)
    if len(largest) > max(MOST_IMAGES, MOST_SHARE * len(taken)):
        terminal.say(
            f"{len(largest)} of {len(taken)} images, such as {largest[0].example_id}, are of one "
            f"patient, and so in one split; {_NAME_PATIENTS}"
        )
    return {name: sorted(ids) for name, ids in splits.items()}


# An anonymised archive may state one PatientID for all patients.
_NAME_PATIENTS = "where headers do not tell patients apart, name them in pairs.csv, column patient"

_FORM = 'write {"train": [id, ...], "val": [...], "test": [...]}'


def _remedy_of_few(key: str, taken: Iterable[Outcome]) -> str:
    remedy = "add patients or "
    remedy += "leave out the fold" if key == "fold" else "give the splits in a file"
    if any(outcome.patient_is_hashed for outcome in taken):
        remedy += f", or, {_NAME_PATIENTS}"
    return remedy


def _example_ids(patients: Iterable[str], by_patient: Mapping[str, Sequence[Outcome]]) -> list[str]:
    return [one.example_id for patient_id in patients for one in by_patient[patient_id]]


def _hash(seed: int, images: Sequence[Outcome]) -> bytes:
    hashed = any(one.patient_is_hashed for one in images)
    first = min(images, key=lambda one: one.example_id)
    name = first.example_id if hashed else first.patient_id
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
