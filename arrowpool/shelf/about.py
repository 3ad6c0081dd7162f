"""The description of a persistent object, in a file next to its parts. What is read is validated before it is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeGuard

_LATEST = 253_370_764_800.0  # the year 9999, in seconds


@dataclass(frozen=True, slots=True)
class About:
    """The description of a persistent object.

    Attributes
    ----------
    kind : str
        Name of its type.
    created : float
        When it was put, in seconds since 1970.
    nbytes : int
        Bytes of all its parts.
    parts : dict of str to (str, int)
        By the name of each part: the name of its file, and its size in bytes.
    """

    kind: str
    created: float
    nbytes: int
    parts: dict[str, tuple[str, int]]

    def dump(self) -> bytes:
        """The description as bytes, for `parse`."""
        described: dict[str, Any] = {
            "kind": self.kind,
            "created": self.created,
            "nbytes": self.nbytes,
            "files": {name: size for name, (_, size) in self.parts.items()},
        }
        names = {name: called for name, (called, _) in self.parts.items() if called != name}
        if names:
            described["names"] = names
        return json.dumps(described).encode()

    @classmethod
    def parse(cls, content: bytes) -> About:
        """Read a description.

        Raises
        ------
        ValueError
            When it is not valid.
        """
        try:
            found = json.loads(content)
        except RecursionError as error:
            raise ValueError("not a description of an object") from error
        if not isinstance(found, dict):
            raise ValueError("not a description of an object")
        kind, created, nbytes = found.get("kind"), found.get("created"), found.get("nbytes")
        files, names = found.get("files"), found.get("names", {})
        if not (
            isinstance(kind, str)
            and isinstance(created, (int, float))
            and 0 <= created < _LATEST  # False for NaN
            and _is_size(nbytes)
            and isinstance(files, dict)
            and files
            and all(map(_is_size, files.values()))
            and isinstance(names, dict)
            and all(isinstance(one, str) for one in names.values())
        ):
            raise ValueError("its description is incomplete or wrong")
        called = {str(name): (str(names.get(name, name)), int(size)) for name, size in files.items()}
        return cls(kind, float(created), nbytes, called)


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
