"""Where the store is when nobody says so: the environment, a file of the working directory, a file of the user's."""

from __future__ import annotations

import os
from pathlib import Path

from genward.core.typed import read_toml
from genward.errors import BadInput, UnknownName

VARIABLE = "GENWARD_STORE"
HERE = "genward.toml"
DEFAULT = "genward-store"
KEYS = ("store",)


def config_files() -> tuple[Path, Path]:
    """The files that are looked at, the first one first: ``genward.toml`` here, ``config.toml`` of the user's."""
    home = os.environ.get("XDG_CONFIG_HOME", "") or str(Path.home() / ".config")
    return Path(HERE), Path(home) / "genward" / "config.toml"


def store_folder() -> Path:
    """The store's folder: ``$GENWARD_STORE``, else ``store`` of the first configuration file that has it, else
    ``genward-store`` here. A relative folder in a file is seen from that file's.

    Raises:
        BadInput: a file that cannot be read, or a store that is no text. UnknownName: a key that is not known.
    """
    if given := os.environ.get(VARIABLE, "").strip():
        return Path(given)
    for path in config_files():
        if not path.is_file():
            continue
        found = read_toml(path, "configuration file", f"known keys: {', '.join(KEYS)}")
        for key in found:
            if key not in KEYS:
                raise UnknownName(f"key of {path}", key, KEYS)
        store = found.get("store")
        if store is None:
            continue
        if not isinstance(store, str) or not store.strip():
            raise BadInput(f'{path}: store is no folder; write store = "/data/genward"')
        return path.parent / Path(store).expanduser()
    return Path(DEFAULT)
