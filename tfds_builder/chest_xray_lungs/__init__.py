"""The data set; importing it makes `tfds.builder("chest_xray_lungs/…")` find it."""

from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import Builder, LungsConfig

__all__ = ["Builder", "LungsConfig"]
