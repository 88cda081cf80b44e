"""The configuration: every key, its default, and the rules that values must keep.

Experiments are files in `configs/` whose `get_config()` returns `default_config()` with changes.
`resolve` turns the result, with the command line's overrides, into the frozen dataclasses that
the rest of the program reads.
"""

import dataclasses
import json
import math
import typing
from typing import Any, Literal

import ml_collections

from lungseg_jax.errors import ConfigError

# Keeps a mistyped size from exhausting the memory.
MAX_IMAGE_SIZE = 8192

# Seven halvings reduce 256 x 256 pixels to 2 x 2 positions, or to one with blocks of 2.
MAX_DEPTH = 7

# Folds of cross-validation, numbered from 0, and the number that means none.
NUM_FOLDS = 5
NO_FOLD = -1

# Beyond 1 / (2 π) `appearance.bend` makes some dark greys brighter than brighter ones.
MAX_TONE = 0.159

# In pixels. The work grows with it: one shifted image for each pixel that the blur reaches.
MAX_BLUR = 10

# Largest turn of columns by rotation and shear together, far beyond that of any chest: from 90
# degrees on, resampling on TPUs fails.
MAX_TURN_DEGREES = 60

# As a power of two: changes by more than a factor of eight leave no chest to see.
MAX_POWER = 3

# More would take a fifth of every parameter off in a step of the default learning rate.
MAX_WEIGHT_DECAY = 100

# Images in a batch, more than any set of labelled radiographs has.
MAX_BATCH = 2**20

# Four times what is read by default: records hold nothing larger.
MAX_MEGAPIXELS = 512

Labels = Literal["lungs", "left_right"]

ParallelKind = Literal["pmap", "mesh"]

# For each but `folder`, `tfds_builder.sources` has a layout of that name.
SourceName = Literal["phantom", "kaggle", "montgomery", "shenzhen", "jsrt", "folder"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
      source: folder layout of the images; `phantom` generates its own.
      manual_dir: the data set's folder; none for `phantom`.
      images: names of the images, for a `folder` without `pairs.csv`.
      masks: names of an image's masks there; `{stem}` is the image's name without suffix.
      data_dir: where records are kept; the images are in `manual_dir`.
      splits: JSON file `{"train": [id…], "val": […], "test": […]}`; empty to split by hash.
      labels: `lungs`, one class, or `left_right`, two: the patient's right and left lung.
      image_size: side of the model's square in pixels.
      num_phantoms: images to generate for `phantom`.
      on_error: whether a bad file ends the build (`fail`) or is left out and reported (`skip`).
      max_bad_share: share of bad images above which even `skip` ends the build.
      frontal_only: leave out images that are not frontal chest radiographs by their header, refuse
        those with next to no greys, and note those that do not look like chests.
      correct_polarity: invert an image whose pixels contradict its photometric tag.
      max_megapixels: the largest image that is decoded.
      sex_and_age: keep PatientSex and PatientAge (90 from 90 years up) of DICOM files in records,
        for metrics by sex and age; otherwise nothing that a header says about a patient is kept.
      resident: whether the decoded training split stays in each device's memory; `auto`: if it
        takes at most a fifth of that or, on a CPU, if the copies of all devices take at most 2 GiB.
        Otherwise, threads of one process stream the images.
    """

    source: SourceName = "phantom"
    manual_dir: str = ""
    images: str = "images/*"
    masks: str = "masks/{stem}*"
    data_dir: str = "~/.cache/lungseg_jax"
    splits: str = ""
    labels: Labels = "lungs"
    image_size: int = 256
    num_phantoms: int = 200
    on_error: Literal["fail", "skip"] = "fail"
    max_bad_share: float = 0.1
    frontal_only: bool = True
    correct_polarity: bool = True
    max_megapixels: float = 128.0
    sex_and_age: bool = False
    resident: Literal["auto", "true", "false"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The U-Net; see `lungseg_jax.models.unet.UNet`.

    Attributes:
      width: channels of the first level.
      depth: number of times the resolution is halved.
      block_size: side of the pixel blocks folded into channels at the input (space-to-depth); 1
        for the plain U-Net.
      norm: `batch` (synchronised over devices) or `group`.
      activation: `relu`, `silu` or `gelu`.
      dtype: compute type; `auto` is bfloat16 on accelerators, and float32 on CPUs and on NVIDIA
        GPUs before Ampere. `float32` products have JAX's default precision on the device: TPUs
        round factors to bfloat16, newer GPUs to TF32, unless JAX_DEFAULT_MATMUL_PRECISION=highest.
      remat: recompute activations in the backward pass to save memory.
    """

    width: int = 16
    depth: int = 4
    block_size: int = 2
    norm: Literal["batch", "group"] = "batch"
    activation: Literal["relu", "silu", "gelu"] = "relu"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training images; see `lungseg_jax.augment`.

    Attributes:
      flip: mirror half of the images left to right; only with labels that do not tell sides:
        a mirrored chest is not just one with its lungs swapped, for its heart is on the wrong side.
      rotation_degrees: largest rotation; see `MAX_TURN_DEGREES`.
      scale: largest change of size, as a share; the ratio of height to width changes by as much.
      aspect: largest additional change of the ratio of height to width, as a share.
      shear: largest shear, as a share.
      shift: largest shift, as a share of the side.
      gamma: largest change of gamma, as a power of two.
      contrast: largest change of contrast, as a share.
      brightness: largest change of brightness, in intensity.
      noise: largest standard deviation of noise, in intensity.
      blur: largest standard deviation of blur, in pixels.
      tone: largest bend of the curve of intensities, in intensity; see `appearance.bend`.
      local_contrast: largest change of contrast within a neighbourhood, as a power of two.
      shading: standard deviation of smooth shading added to the image, in intensity.
      opacity: largest brightness of soft blobs, on the lungs or elsewhere, in intensity.
      bars: largest width of black bars along the image's edges, off the lungs, as a share of the
        side.
    """

    flip: bool = True
    rotation_degrees: float = 10.0
    scale: float = 0.15
    aspect: float = 0.0
    shear: float = 0.05
    shift: float = 0.06
    gamma: float = 0.5
    contrast: float = 0.25
    brightness: float = 0.1
    noise: float = 0.03
    blur: float = 1.0
    tone: float = 0.0
    local_contrast: float = 0.0
    shading: float = 0.0
    opacity: float = 0.0
    bars: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to zero.

    Attributes:
      learning_rate: peak learning rate, reached at the end of the warm-up.
      warmup_steps: steps over which the learning rate rises linearly from zero; all steps but one
        in a run no longer than that.
      weight_decay: decoupled; applied to convolution kernels only.
      clip_norm: largest global norm of the gradient.
      ema_decay: decay of the model's exponential moving average, which is what is evaluated.
    """

    learning_rate: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how often.

    Attributes:
      every: steps between validations; a checkpoint is saved at each.
      batch_size: images per batch over all devices.
      tolerance_px: tolerance of surface Dice in pixels of the original frame.
      tolerance_mm: tolerance of surface Dice in mm, where the spacing is known.
    """

    every: int = 50
    batch_size: int = 16
    tolerance_px: float = 2.0
    tolerance_mm: float = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What `--mode=benchmark` times.

    Attributes:
      data: `records` as in training, or `synthetic`: noise, which needs no records and none of the
        libraries that read them.
      warmup_steps: untimed steps before each timing.
      steps: steps timed one by one. Consecutive steps are timed in rounds of at least ten steps:
        one round for every ten of these, but at least ten.
    """

    data: Literal["records", "synthetic"] = "records"
    warmup_steps: int = 3
    steps: int = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run.

    Attributes:
      batch_size: images per step over all devices.
      accumulation_steps: number of parts in which a batch is processed, one after the other, to
        save memory. Batch statistics, the Dice loss and trimming are then computed per part.
      trimmed_share: share of a batch's images, those with the largest loss, that a step's loss
        leaves out; 0 to leave none out. See `losses.segmentation_loss`.
      num_steps: steps of the whole run.
      start_from: weights that training starts from: `packaged`, a file of `lungseg_jax.export`, or
        the folder of a run, if their network has the same form (with other labels, the last layer
        begins anew); empty for random ones.
      seed: random seed of initial parameters, order, augmentation, split and phantoms.
      fold: fold of a five-fold cross-validation, 0 to 4, whose test splits together contain every
        image once; -1 for a single split of 70, 10 and 20 %.
      parallel: how a step is distributed over devices: `pmap` or `mesh`, with the same result. With
        several hosts, JAX takes longer to call `pmap`: 3 to 6 ms for 315 arrays, .6 with `mesh`.
      space_shards: devices that share the rows of each image, for images whose activations one
        device cannot hold; with `parallel=mesh` only. They must belong to one host.
      shard_optimizer: shard the optimizer's state and the moving average over the devices instead
        of copying them to each; with `parallel=mesh` only.
      profile: with `--mode=benchmark`, write a trace of some steps for XProf and Perfetto to
        `profile/` in the run's folder. Training writes none: one step costs as much as the next,
        and a trace of many is too large to view.
      distributed: join the other hosts of a pod or cluster before anything else.
      keep_checkpoints: how many of the newest checkpoints to keep, besides the best.
      data: what to train on.
      model: the network.
      augment: random changes to training images.
      optimizer: the update rule.
      evaluation: what is measured.
      benchmark: what `--mode=benchmark` times.
    """

    batch_size: int = 16
    accumulation_steps: int = 1
    trimmed_share: float = 0.0
    num_steps: int = 200
    start_from: str = ""
    seed: int = 0
    fold: int = NO_FOLD
    parallel: ParallelKind = "pmap"
    space_shards: int = 1
    shard_optimizer: bool = False
    profile: bool = False
    distributed: bool = False
    keep_checkpoints: int = 2
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    def __post_init__(self) -> None:
        _check_types(self)
        _check_ranges(self)


def default_config() -> ml_collections.ConfigDict:
    """Returns the defaults as a `ConfigDict` for a file in `configs/` to change."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def resolve(config: ml_collections.ConfigDict) -> Config:
    """Returns the frozen configuration.

    Raises:
      ConfigError: an unknown key, a value of the wrong type or out of range, or one that nothing
        would read.
    """
    resolved = _build(Config, config.to_dict(), prefix="")
    _check_read(resolved.data)
    return resolved


def to_json(config: Config) -> str:
    """Returns the configuration as JSON, every key spelt out."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Inverts `to_json`; missing keys take their defaults.

    Raises:
      ConfigError: an unknown key, a value of the wrong type or out of range.
      ValueError: the text is not a JSON object.
    """
    return _build(Config, read_keys(text), prefix="")


def read_keys(text: str) -> dict[str, Any]:
    """Returns the keys in JSON, unchecked.

    Raises:
      ValueError: the text is not a JSON object.
    """
    keys = json.loads(text)
    if not isinstance(keys, dict):
        raise ValueError(f"a {type(keys).__name__} instead of keys")
    return keys


def num_trimmed(share: float, num_images: int) -> int:
    """Returns how many whole images a share amounts to, never all; allows for rounding errors."""
    return min(num_images - 1, math.floor(share * num_images + 1e-6))


def _build(kind: type, values: Any, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ConfigError(prefix[:-1], f"is {values!r}", "give a group of keys")
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(prefix + unknown[0], "unknown key", f"one of {', '.join(sorted(hints))}")
    built = {
        key: _build(hints[key], value, f"{prefix}{key}.")
        if dataclasses.is_dataclass(hints[key])
        else _checked(value, hints[key], prefix + key)
        for key, value in values.items()
    }
    return kind(**built)


def _check_types(group: Any, prefix: str = "") -> None:
    """Refuses what only Python code can pass: `_build` checks files and command lines."""
    hints = typing.get_type_hints(type(group))
    for field in dataclasses.fields(group):
        key, value, hint = prefix + field.name, getattr(group, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint) and type(value) is hint:
            _check_types(value, f"{key}.")
        elif _checked(value, hint, key) != value:
            raise ConfigError(key, f"is {value!r}", f"write it as {_checked(value, hint, key)!r}")


def _checked(value: Any, hint: Any, key: str) -> Any:
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        # `true` on the command line is a word, True in a config file a bool; both are accepted.
        value = str(value).lower() if isinstance(value, bool) else value
        if value not in choices:
            raise ConfigError(key, f"is {value!r}", f"one of {', '.join(choices)}")
        return value
    if hint is float and type(value) is int:
        value = float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(key, f"is {value}", "give a finite number")
    # In Python, True is an int.
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(key, f"is {value!r}", f"give a value of type {hint.__name__}")
    return value


def _check_ranges(config: Config) -> None:
    def at_least(key: str, low: int) -> None:
        value = _get(config, key)
        if not value >= low:
            raise ConfigError(key, f"is {value}", f"give at least {low}")

    for key in (
        "batch_size", "accumulation_steps", "num_steps", "keep_checkpoints", "data.image_size",
        "space_shards", "model.width", "model.depth", "model.block_size", "evaluation.every",
        "evaluation.batch_size", "benchmark.steps", "benchmark.warmup_steps",
    ):  # fmt: skip
        at_least(key, 1)
    for key in (
        "seed", "optimizer.warmup_steps", "optimizer.weight_decay", "optimizer.learning_rate",
        "evaluation.tolerance_px", "evaluation.tolerance_mm",
        *(f"augment.{field.name}" for field in dataclasses.fields(AugmentConfig)),
    ):  # fmt: skip
        at_least(key, 0)
    # Below ten phantoms a split of 70, 10 and 20 % has an empty part.
    at_least("data.num_phantoms", 10)
    for key, high in (
        ("model.depth", MAX_DEPTH), ("augment.tone", MAX_TONE), ("augment.blur", MAX_BLUR),
        ("augment.shift", 1), ("augment.brightness", 1), ("augment.noise", 1), ("augment.bars", 1),
        ("augment.aspect", 1), ("augment.gamma", MAX_POWER), ("augment.local_contrast", MAX_POWER),
        ("augment.shading", 1), ("augment.opacity", 1),
        ("optimizer.weight_decay", MAX_WEIGHT_DECAY), ("seed", 2**32 - 1),
        ("batch_size", MAX_BATCH), ("evaluation.batch_size", MAX_BATCH),
        ("data.max_megapixels", MAX_MEGAPIXELS),
    ):  # fmt: skip
        if _get(config, key) > high:
            raise ConfigError(key, f"is {_get(config, key)}", f"give at most {high}")
    _check_trimming(config)
    _check_data(config.data)
    _check_fold(config)
    _check_augment(config.augment)
    _check_optimizer(config.optimizer)
    _check_image_size(config)
    if config.model.norm == "group" and config.model.width % 8:
        raise ConfigError(
            "model.width", f"is {config.model.width}", "group norm takes multiples of 8 channels"
        )
    _check_batch_norm(config)
    if config.parallel == "pmap":
        for key in ("space_shards", "shard_optimizer"):
            if _get(config, key) != _get(Config, key):
                raise ConfigError(key, f"is {_get(config, key)}", "needs parallel=mesh")


def _check_fold(config: Config) -> None:
    if not NO_FOLD <= config.fold < NUM_FOLDS:
        raise ConfigError("fold", f"is {config.fold}", f"give 0 to {NUM_FOLDS - 1}, or -1 for none")
    if config.fold != NO_FOLD and config.data.splits:
        raise ConfigError(
            "fold", f"is {config.fold}, but data.splits fixes the split", "leave out one of the two"
        )


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    if optimizer.clip_norm <= 0:
        raise ConfigError("optimizer.clip_norm", f"is {optimizer.clip_norm}", "give > 0")
    if not 0 <= optimizer.ema_decay < 1:
        raise ConfigError(
            "optimizer.ema_decay", f"is {optimizer.ema_decay}", "give a share in [0, 1)"
        )


def _check_read(data: DataConfig) -> None:
    """Refuses keys that would have no effect, or mean the current folder."""
    if not data.data_dir:
        raise ConfigError("data.data_dir", "is empty", "give a folder")
    if data.source == "phantom" and data.manual_dir:
        raise ConfigError(
            "data.manual_dir",
            "is given, but data.source=phantom generates its images",
            "give its data.source, such as kaggle or folder",
        )
    for key in ("images", "masks"):
        if data.source != "folder" and getattr(data, key) != getattr(DataConfig, key):
            raise ConfigError(f"data.{key}", "is given", "needs data.source=folder")


def _check_data(data: DataConfig) -> None:
    # ArrayRecord and the image decoders only read from disk.
    for key in ("manual_dir", "data_dir", "splits"):
        if "://" in getattr(data, key):
            raise ConfigError(
                f"data.{key}",
                f"is {getattr(data, key)}, which is not on disk",
                "copy it there, or mount its storage, and give the path",
            )
    if not 0 <= data.max_bad_share <= 1:
        raise ConfigError(
            "data.max_bad_share", f"is {data.max_bad_share}", "give a share in [0, 1]"
        )
    if data.max_megapixels <= 0:
        raise ConfigError("data.max_megapixels", f"is {data.max_megapixels}", "give > 0")


def _check_trimming(config: Config) -> None:
    if not 0 <= config.trimmed_share < 1:
        raise ConfigError("trimmed_share", f"is {config.trimmed_share}", "give a share in [0, 1)")
    together = config.batch_size // config.accumulation_steps
    if config.trimmed_share and not num_trimmed(config.trimmed_share, together):
        raise ConfigError(
            "trimmed_share",
            f"is {config.trimmed_share:g}, less than one of {together} images",
            "give 0, a larger batch_size or fewer accumulation_steps",
        )


def _check_batch_norm(config: Config) -> None:
    """Refuses batches of which the deepest layer sees one position: minus its mean, that is 0."""
    side = config.data.image_size // (config.model.block_size * 2**config.model.depth)
    together = config.batch_size // config.accumulation_steps
    if config.model.norm == "batch" and side == 1 and together == 1:
        raise ConfigError(
            "model.depth",
            f"is {config.model.depth}, which leaves one position of an image, and 1 image is "
            "normalised at a time",
            "give a smaller depth, a larger batch, or model.norm=group",
        )


def _check_augment(augment: AugmentConfig) -> None:
    if max(augment.scale, augment.contrast) >= 1:
        raise ConfigError("augment.scale, augment.contrast", "reach 1", "give shares below 1")
    turn = augment.rotation_degrees + math.degrees(math.atan(augment.shear))
    if turn > MAX_TURN_DEGREES:
        raise ConfigError(
            "augment.rotation_degrees",
            f"is {augment.rotation_degrees}, together with augment.shear {turn:.0f} degrees",
            f"keep the total at most {MAX_TURN_DEGREES}",
        )


def _check_image_size(config: Config) -> None:
    multiple = config.model.block_size * 2**config.model.depth * config.space_shards
    size = config.data.image_size
    if size % multiple or size > MAX_IMAGE_SIZE:
        near = max(multiple, round(size / multiple) * multiple)
        raise ConfigError(
            "data.image_size",
            f"is {size}",
            f"give a multiple of model.block_size * 2**model.depth * space_shards = {multiple} "
            f"up to {MAX_IMAGE_SIZE}, such as {min(near, MAX_IMAGE_SIZE // multiple * multiple)}",
        )


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config
