"""The secret that patients' identifiers are hashed with."""

import os
import secrets

from etils import epath


def read_or_make_key(data_dir: epath.Path) -> bytes:
    """Returns the key kept in `data_dir`, made there if it is absent.

    Without the key a hash tells nothing of the identifier; with one key for all data sets a patient
    has the same hash in all of them. Only its owner can read the file, and no record holds it.
    """
    path = data_dir / "patient_id.key"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        unique = data_dir / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(unique, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            # Fails where another process was first, whose key then holds.
            os.link(unique, path)
        except FileExistsError:
            pass
        finally:
            unique.unlink()
    return bytes.fromhex(path.read_text())
