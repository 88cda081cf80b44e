"""Reading TensorBoard's event files, of which no dependency has a reader."""

import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def events_in(workdir: Path) -> Iterator[Event]:
    """Yields the events of a run in the order of their files."""
    for path in sorted(workdir.glob("events.*")):
        content, start = path.read_bytes(), 0
        # A TFRecord is length, its checksum, the event, its checksum; a killed run may end early.
        while start + 12 < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            record = content[start + 12 : start + 12 + length]
            checksum = content[start + 12 + length : start + 16 + length]
            start += length + 16
            if len(checksum) == 4:
                # TensorBoard reads no record without it.
                assert struct.unpack("<I", checksum) == (masked_crc32c(record),)
                yield Event.FromString(record)
