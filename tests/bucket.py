"""A bucket on this machine that answers as Google Cloud Storage does.

Logins, rights and hierarchical buckets it knows nothing of.
"""

import contextlib
import dataclasses
import http.server
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket that is served.

    Attributes:
      address: of it, `gs://…`.
      environment: of the processes that use it.
      objects: what is in it.
    """

    address: str
    environment: dict[str, str]
    objects: storage.Bucket

    def read(self, name: str) -> bytes:
        """Returns an object's content."""
        return self.objects.blob(name).download_as_bytes()

    def names(self, prefix: str) -> list[str]:
        """Returns the names of the objects that begin with it."""
        return [blob.name for blob in self.objects.list_blobs(prefix=prefix)]


@contextlib.contextmanager
def serve_bucket() -> Iterator[Bucket]:
    """Serves an empty bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    emulator = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="runs")
    emulator.start()
    address = f"http://127.0.0.1:{port}"
    environment = {
        # Of gcsfs and of Google's own client, by which Orbax lists checkpoints.
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        # Kinds of buckets that only a login tells.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    client = storage.Client(
        "tests", AnonymousCredentials(), client_options={"api_endpoint": address}
    )
    try:
        yield Bucket("gs://runs", environment, client.bucket("runs"))
    finally:
        emulator.stop()


def _download(request: Any, response: Any, stored: Any, *rest: Any) -> None:
    """As the emulator's, with the object's generation, which TensorStore asks for."""
    with contextlib.suppress(objects.NotFound):
        found = stored.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = found["generation"]
    _plain_download(request, response, stored, *rest)


def _move(request: Any, response: Any, stored: Any, *_: Any) -> None:
    """Renames an object, which the emulator lacks."""
    name, old, new = (request.params[key] for key in ("bucket_name", "object_id", "new_id"))
    try:
        content, found = stored.get_file(name, old), stored.get_file_obj(name, old)
    except objects.NotFound:
        response.status = HTTPStatus.NOT_FOUND
        return
    moved = found | {"name": new}
    stored.create_file(name, new, content, moved)
    stored.delete_file(name, old)
    response.json(moved)


class _Router(server.Router):
    """Requests one at a time, because what the emulator stores is not made for several."""

    def handle(self, method: str) -> None:
        with _one_at_a_time:
            super().handle(method)


_one_at_a_time = threading.Lock()
server.Router = _Router
# So that a client that only holds a connection does not keep the others waiting.
server.server.HTTPServer = http.server.ThreadingHTTPServer
_plain_download = objects.download
objects.download = _download
_MOVE = r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)/moveTo/o/(?P<new_id>.+)$"
server.HANDLERS = ((_MOVE, {server.POST: _move}), *server.HANDLERS)
