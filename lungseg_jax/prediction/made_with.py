"""`made_with.json`: which networks, options and versions the masks of a table come from."""

import dataclasses
import json
from collections.abc import Sequence

from etils import epath

from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.paths import write_whole
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.runtime.environment import environment

MADE_WITH = "made_with.json"


def write_made_with(
    output: epath.Path, segmenter: Segmenter, options: ReadOptions, extras: Sequence[str]
) -> None:
    """Writes what a call's masks are made with; those that it keeps from earlier ones were, too.

    That is so for networks, reading and libraries' versions. Date, revision and hardware are the
    call's own.

    Args:
      output: the folder of the masks.
      segmenter: the network.
      options: how files are read.
      extras: what is written besides masks and overlays.
    """
    content = {
        **segmenter.description(),
        "reading": dataclasses.asdict(options),
        "extras": list(extras),
        **environment(),
    }
    write_whole(output / MADE_WITH, (json.dumps(content, indent=2) + "\n").encode())
