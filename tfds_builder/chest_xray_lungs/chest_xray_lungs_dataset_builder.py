"""The TFDS builder of `chest_xray_lungs`."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builder import phantom_files, splits
from tfds_builder.convert import convert
from tfds_builder.sources import Case, SourceName, list_source


@dataclasses.dataclass(eq=False, kw_only=True)
class LungsConfig(tfds.core.BuilderConfig):
    """What the records are made of.

    Attributes:
      source: folder layout.
      image_size: side of the model's square in pixels.
      seed: of the split, and of the phantoms.
      splits: JSON file that gives the splits instead; empty for none.
      num_phantoms: how many to generate, for the source `phantom`.
    """

    name: str = ""
    source: SourceName = "phantom"
    image_size: int = 256
    seed: int = 0
    splits: str = ""
    num_phantoms: int = 200


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of chest radiographs with lung masks."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Phantoms and Kaggle's Chest Xray Masks and Labels.",
        "2.0.0": "Masks are bits that tell right from left.",
    }
    BUILDER_CONFIGS: ClassVar = [
        LungsConfig(name=f"{source}_{size}", source=source, image_size=size)
        for source in ("phantom", "kaggle")
        for size in (256, 512)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "kaggle: download 'Chest Xray Masks and Labels' (nikhilpandey360/"
        "chest-xray-masks-and-labels) from Kaggle and unpack it into the manual folder. "
        "phantom: nothing to do."
    )

    @property
    def _lungs(self) -> LungsConfig:
        config = self.builder_config
        assert isinstance(config, LungsConfig)
        return config

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._lungs.image_size
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(size, size, 1),
                    dtype=np.uint16,
                    encoding_format="png",
                    doc="Intensity / 65535, bone bright.",
                ),
                "mask": tfds.features.Image(
                    shape=(size, size, 1),
                    encoding_format="png",
                    doc="Bits of a pixel: 1 lung, 2 right lung, 4 left lung.",
                ),
                "original_mask": tfds.features.Image(
                    shape=(None, None, 1),
                    encoding_format="png",
                    doc="As mask, at the picture's own size.",
                ),
                "example_id": tfds.features.Text(),
                "patient_id": tfds.features.Text(),
                "source": tfds.features.Text(),
                "finding": tfds.features.Text(),
                "original_size": tfds.features.Tensor(
                    shape=(2,), dtype=np.int32, doc="Height and width in pixels."
                ),
                "spacing_mm": tfds.features.Tensor(
                    shape=(2,), dtype=np.float32, doc="Row and column; 0 where not known."
                ),
                "spacing_source": tfds.features.Text(),
            }
        )
        return self.dataset_info_from_configs(
            features=features, supervised_keys=("image", "mask"), disable_shuffling=False
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        config = self._lungs
        if config.source == "phantom":
            # The version, too, says which phantoms: those of an older generator are not reused.
            name = f"phantoms-{self.VERSION}-{config.num_phantoms}-{config.seed}"
            directory = dl_manager.download_dir / name
            phantom_files.write_phantoms(Path(directory), config.num_phantoms, config.seed)
        else:
            directory = dl_manager.manual_dir
        cases = list_source(config.source, directory).cases
        if config.splits:
            ids = splits.read_splits(config.splits, cases)
        else:
            ids = splits.assign_splits(cases, config.seed)
        by_id = {case.example_id: case for case in cases}
        return {
            name: self._generate_examples([by_id[example_id] for example_id in own])
            for name, own in ids.items()
        }

    def _generate_examples(self, cases: Sequence[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
        for case in cases:
            yield case.example_id, convert(case, self._lungs.image_size)
