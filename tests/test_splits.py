"""Splits that neither leak patients nor depend on chance."""

import collections
import dataclasses
import hashlib
import itertools
import json

import hypothesis.strategies as st
import pytest
from hypothesis import assume, example, given, settings

from lungseg_jax.config import NUM_FOLDS
from lungseg_jax.errors import ConfigError
from lungseg_jax.file_digest import FileDigest
from tfds_builder.outcome import Outcome
from tfds_builder.splits import HELD_OUT_SHARES, SPLITS, assign_fold, assign_splits, read_splits

SOURCES = ("montgomery", "shenzhen", "jsrt")
FINDINGS = ("normal", "abnormal", "unknown")


def make_outcome(example_id: str, patient_id: str, source: str, finding: str) -> Outcome:
    return Outcome(
        example_id, "taken", "", "", "", (), True, patient_id, False, source, finding, {}
    )


@st.composite
def case_lists(draw) -> list[tuple[str, str, str, str]]:
    """Arguments of `make_outcome`: patients of several images, of one source and finding or not.

    No outcomes yet, for beartype draws random numbers when they are made.
    """
    sizes = draw(st.lists(st.integers(1, 4), min_size=12, max_size=60))
    cases = []
    for patient, size in enumerate(sizes):
        source = draw(st.sampled_from(SOURCES))
        cases += [
            (
                f"e{patient}_{i}",
                f"p{patient}",
                draw(st.sampled_from([source, source, SOURCES[0]])),
                draw(st.sampled_from(FINDINGS)),
            )
            for i in range(size)
        ]
    return cases


@given(case_lists(), st.integers(0, 5))
@settings(max_examples=60)
def test_every_image_is_in_one_split_and_every_patient_too(arguments, seed):
    """A patient in two splits makes test figures too good."""
    cases = list(itertools.starmap(make_outcome, arguments))
    splits = assign_splits(cases, seed)
    assert tuple(splits) == SPLITS
    ids = [example_id for split_ids in splits.values() for example_id in split_ids]
    assert sorted(ids) == sorted(case.example_id for case in cases)
    patient_of = {case.example_id: case.patient_id for case in cases}
    patients = [
        {patient_of[example_id] for example_id in split_ids} for split_ids in splits.values()
    ]
    assert sum(map(len, patients)) == len(set.union(*patients))


@given(case_lists(), st.integers(0, 5), st.randoms())
@settings(max_examples=60)
def test_the_order_of_the_input_does_not_matter(arguments, seed, random):
    """File systems list in any order: the same data must give the same test split anywhere."""
    cases = list(itertools.starmap(make_outcome, arguments))
    shuffled = list(cases)
    random.shuffle(shuffled)
    assert assign_splits(cases, seed) == assign_splits(shuffled, seed)


@example([13] * 9)
@example([1] * 9)
@given(st.lists(st.integers(0, 40), min_size=9, max_size=9))
@settings(max_examples=100)
def test_shares_hold_within_every_stratum(counts):
    """A test split of one hospital, or of the ill alone, measures something else."""
    strata = [(source, finding) for source in SOURCES for finding in FINDINGS]
    cases = [
        make_outcome(f"{source}-{finding}-{i}", f"p-{source}-{finding}-{i}", source, finding)
        for (source, finding), count in zip(strata, counts, strict=True)
        for i in range(count)
    ]
    assume(len(cases) >= 8)
    splits = assign_splits(cases, 0)
    stratum_of = {case.example_id: (case.source, case.finding) for case in cases}
    for name, share in HELD_OUT_SHARES.items():
        assert abs(len(splits[name]) - share * len(cases)) <= 1
        found = collections.Counter(stratum_of[example_id] for example_id in splits[name])
        for stratum, count in zip(strata, counts, strict=True):
            # Half for its own rounding, half for what other strata have left over; one more where
            # the stratum is too small for both splits.
            assert abs(found[stratum] - share * count) <= (1 if count > 5 else 1.5)


@given(case_lists(), st.integers(0, 5))
@settings(max_examples=60)
def test_folds_test_every_image_once_and_share_no_patient(arguments, seed):
    """Fault: an image tested twice or never, or a patient on both sides of a fold."""
    cases = list(itertools.starmap(make_outcome, arguments))
    folds = [assign_fold(cases, seed, fold) for fold in range(NUM_FOLDS)]
    ids = sorted(case.example_id for case in cases)
    assert sorted(itertools.chain.from_iterable(fold["test"] for fold in folds)) == ids
    patient_of = {case.example_id: case.patient_id for case in cases}
    for fold in folds:
        assert sorted(itertools.chain.from_iterable(fold.values())) == ids
        patients = [
            {patient_of[example_id] for example_id in split_ids} for split_ids in fold.values()
        ]
        assert sum(map(len, patients)) == len(set.union(*patients))


def test_folds_are_alike():
    """Fault: strata one after the other in one fold, so that folds are of different hospitals."""
    counts = {"montgomery": 37, "shenzhen": 83}
    cases = [
        make_outcome(f"{source}{i}", f"{source}{i}", source, "normal")
        for source, count in counts.items()
        for i in range(count)
    ]
    for fold in range(NUM_FOLDS):
        splits = assign_fold(cases, 0, fold)
        for name, share in HELD_OUT_SHARES.items():
            for source, count in counts.items():
                found = sum(example_id.startswith(source) for example_id in splits[name])
                # Each tenth of a stratum is rounded by itself.
                assert abs(found - share * count) < 2


def test_a_patient_with_one_abnormal_image_is_abnormal():
    """Strata by image would tear the patient apart or depend on which comes first."""
    cases = [make_outcome(f"n{i}", f"n{i}", "shenzhen", "normal") for i in range(40)]
    for i in range(10):
        cases.append(make_outcome(f"x{i}", f"x{i}", "shenzhen", "normal"))
        cases.append(make_outcome(f"y{i}", f"x{i}", "shenzhen", "abnormal"))
    test = assign_splits(cases, 3)["test"]
    assert sum(example_id[0] == "y" for example_id in test) == 2
    assert sum(example_id[0] == "n" for example_id in test) == 8


def test_the_seed_changes_the_split_and_new_patients_barely_do():
    """A hash of position instead of id would reshuffle all when one file is added."""
    cases = [make_outcome(f"e{i}", f"p{i}", "shenzhen", "normal") for i in range(100)]
    before = assign_splits(cases, 0)
    assert before != assign_splits(cases, 1)
    after = assign_splits([*cases, make_outcome("new", "new", "shenzhen", "normal")], 0)
    moved = set(before["test"]) ^ set(after["test"])
    assert len(moved) <= 2


def test_too_few_patients_are_refused():
    """An empty test split would end a long run in a division by zero."""
    cases = [make_outcome(f"e{i}", "p", "shenzhen", "normal") for i in range(30)]
    with pytest.raises(ConfigError, match=r"^data.splits: 1 patients leave .*; add patients"):
        assign_splits(cases, 0)


def test_copies_of_a_file_are_in_one_split():
    """Fault: an image that is trained on and, under another name, tested on."""

    def with_image(outcome: Outcome, *images: str) -> Outcome:
        digests = {f"{i}": FileDigest(image, 1) for i, image in enumerate(images)}
        return dataclasses.replace(outcome, digests=digests)

    # A chain: the copies of p0 and p1, and those of p1 and p2, make one patient of three. Equal
    # masks, such as empty ones, do not.
    cases = [
        with_image(make_outcome(f"e{i}", f"p{i // 2}", "shenzhen", "normal"), f"own {i}", "mask")
        for i in range(80)
    ]
    for copy, original in ((2, 1), (4, 3), (41, 78)):
        cases[copy] = with_image(cases[copy], f"own {original}")
    for seed in range(20):
        splits = assign_splits(cases, seed)
        split_of = {example_id: name for name, ids in splits.items() for example_id in ids}
        assert len(split_of) == 80
        assert len({split_of[f"e{i}"] for i in range(6)}) == 1
        assert len({split_of[f"e{i}"] for i in (40, 41, 78, 79)}) == 1
        assert {len(ids) > 0 for ids in splits.values()} == {True}
        # Fault: patients of copies named by the file that a disk lists first, and so split by it.
        assert assign_splits(cases[::-1], seed) == splits


def test_headers_that_name_one_patient_for_all_have_a_remedy():
    """Fault: an archive made anonymous with one PatientID cannot be built, nor is a way shown."""
    cases = [
        dataclasses.replace(make_outcome(f"e{i}", "p", "folder", "unknown"), patient_is_hashed=True)
        for i in range(30)
    ]
    with pytest.raises(ConfigError, match=r"1 patients leave .*pairs\.csv, column patient$"):
        assign_splits(cases, 0)


def test_splits_do_not_depend_on_the_key_of_identifiers():
    """Fault: the same archive split otherwise in each data folder, which has a key of its own."""

    def hashed(key: str) -> list[Outcome]:
        names = [hashlib.sha256(f"{key}/{i // 2}".encode()).hexdigest() for i in range(80)]
        cases = [make_outcome(f"e{i}", name, "folder", "normal") for i, name in enumerate(names)]
        return [dataclasses.replace(case, patient_is_hashed=True) for case in cases]

    one, other = hashed("one"), hashed("other")
    assert assign_splits(one, 0) == assign_splits(other, 0)
    for fold in range(NUM_FOLDS):
        assert assign_fold(one, 0, fold) == assign_fold(other, 0, fold)
    # Nor on the order of the files, of which one stands for the patient.
    for seed in range(5):
        assert assign_splits(one[::-1], seed) == assign_splits(one, seed)


CASES = [make_outcome(f"e{i}", f"p{i // 2}", "shenzhen", "normal") for i in range(8)]
GOOD = {"train": ["e0", "e1", "e2"], "val": ["e5"], "test": ["e6", "e7", "e6"]}


def test_a_split_file_is_followed(tmp_path):
    """Published splits must be comparable: nothing added, nothing counted twice."""
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(GOOD))
    splits = read_splits(path, CASES)
    assert splits == {"train": ["e0", "e1", "e2"], "val": ["e5"], "test": ["e6", "e7"]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (json.dumps(GOOD | {"val": ["e9"]}), "val lists 'e9', which is not in the data"),
        (json.dumps(GOOD | {"val": ["e3"]}), "patient p1 is in train (e2) and in val (e3)"),
        (json.dumps(GOOD | {"val": []}), "split val is empty"),
        (json.dumps(GOOD | {"val": "e5"}), "split val is empty or no list"),
        (json.dumps(GOOD | {"val": [["e5"]]}), "which is not in the data"),
        (json.dumps(GOOD | {"val": [5]}), "which is not in the data"),
        (json.dumps(GOOD | {"valid": ["e5"]}), "just the keys"),
        (json.dumps({"train": ["e0"], "test": ["e6"]}), "just the keys"),
        (json.dumps(["e0", "e1"]), "just the keys"),
        ('{"train": ["e0"', "not readable as JSON"),
        ("", "not readable as JSON"),
        ("\ud800", "not readable as JSON"),
    ],
)
def test_faulty_split_files_are_told_apart(tmp_path, content, fault):
    """Each is a slip of an editor that must not end in a traceback or in a leak."""
    path = tmp_path / "splits.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        read_splits(path, CASES)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert fault in message


def test_images_that_were_not_taken_leave_a_split_file_valid(tmp_path, capsys):
    """Fault: one lateral view ends a build of hours, as an id that is not in the data."""
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(GOOD))
    lateral = {"status": "left out", "fault": "not a frontal view", "patient_id": "e1"}
    cases = [
        dataclasses.replace(case, **lateral) if case.example_id == "e1" else case for case in CASES
    ]
    assert read_splits(path, cases)["train"] == ["e0", "e2"]
    assert "1 of its images are left out, such as e1 (not a frontal" in capsys.readouterr().err
    path.write_text(json.dumps(GOOD | {"train": ["e2"], "val": ["e1"]}))
    with pytest.raises(ConfigError, match=r"every image of split val .* e1; .*not a frontal"):
        read_splits(path, cases)


def test_an_absent_split_file(tmp_path):
    """A typing error in --config.data.splits."""
    with pytest.raises(ConfigError, match=r"absent\.json: no such file"):
        read_splits(tmp_path / "absent.json", CASES)


@pytest.mark.parametrize(("images", "told"), [(20, False), (21, True)])
def test_a_patient_of_very_many_images_is_told(capsys, images, told):
    """Fault: a part of an archive under one number, ANONYMOUS, in one split without a word."""
    cases = [make_outcome(f"a{i}", "one", "folder", "unknown") for i in range(images)]
    cases += [make_outcome(f"b{i}", f"p{i}", "folder", "unknown") for i in range(60)]
    splits = assign_splits(cases, 0)
    said = capsys.readouterr().err
    assert ("21 of 81 images, such as a0, are of one patient" in said) == told
    assert told or not said
    (split,) = {name for name, ids in splits.items() if "a0" in ids}
    assert {f"a{i}" for i in range(images)} <= set(splits[split])
