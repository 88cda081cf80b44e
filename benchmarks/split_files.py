"""Writes the split files of the protocols, `configs/splits/`.

  python -m benchmarks.split_files FOLDER

FOLDER holds Kaggle's "Chest Xray Masks and Labels". Patients are kept together. `pooled.json` is
the split that the builder itself makes with seed 0; `montgomery_to_shenzhen.json` and
`shenzhen_to_montgomery.json` train on one hospital and test on the other; `all.json` trains on all
images but those of one patient each for validation and test, by which a run must not be judged;
`all_tested.json` is for networks that saw none of the images.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import call_with_arguments
from tfds_builder.outcome import Outcome
from tfds_builder.sources import list_source
from tfds_builder.splits import assign_splits

FOLDER = Path(__file__).parent.parent / "configs" / "splits"

Splits = dict[str, list[str]]


def main(folder: str) -> None:
    """Writes all files."""
    taken = [_as_taken(case) for case in list_source("kaggle", folder).cases]
    by_source = {
        source: [outcome for outcome in taken if outcome.source == source]
        for source in ("montgomery", "shenzhen")
    }
    assert sum(map(len, by_source.values())) == len(taken), "an image of another source"
    write("pooled", assign_splits(taken, 0))
    for first, second in (("montgomery", "shenzhen"), ("shenzhen", "montgomery")):
        write(f"{first}_to_{second}", across(by_source[first], by_source[second]))
    nearly = nearly_all(assign_splits(taken, 0), taken)
    write("all", nearly)
    write("all_tested", {"train": nearly["test"], "val": nearly["val"], "test": nearly["train"]})


def across(trained_on: Sequence[Outcome], tested_on: Sequence[Outcome]) -> Splits:
    """Returns splits that test on images of another hospital."""
    splits = assign_splits(trained_on, 0)
    return {
        "train": sorted(splits["train"] + splits["test"]),
        "val": splits["val"],
        "test": sorted(outcome.example_id for outcome in tested_on),
    }


def nearly_all(splits: Splits, taken: Sequence[Outcome]) -> Splits:
    """Returns splits that hold out one patient each for validation and test."""
    patient_of = {outcome.example_id: outcome.patient_id for outcome in taken}
    held_out = {
        name: [
            example_id
            for example_id, patient_id in patient_of.items()
            if patient_id == patient_of[splits[name][0]]
        ]
        for name in ("val", "test")
    }
    rest = set(patient_of).difference(*held_out.values())
    return {"train": sorted(rest), **held_out}


def write(name: str, splits: Splits) -> None:
    """Writes a split file."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(splits, indent=0) + "\n")
    print(name, {split: len(ids) for split, ids in splits.items()})


def _as_taken(case) -> Outcome:  # noqa: ANN001
    return Outcome(
        example_id=case.example_id,
        status="taken",
        subject="",
        fault="",
        remedy="",
        notes=(),
        has_lung=True,
        patient_id=case.patient_id or case.example_id,
        patient_is_hashed=False,
        source=case.source,
        finding=case.clinical.finding,
        digests={},
    )


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
