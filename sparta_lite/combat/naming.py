"""Names that settings may give."""

from __future__ import annotations

import difflib

from sparta_lite.errors import SpartaError


def require_name(setting: str, value: object, valid: tuple[str, ...]) -> None:
    """Refuse a value that is none of ``valid``.

    Raises:
        SpartaError: it is not; the message has the nearest name.
    """
    if value not in valid:
        nearest = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.0)[0]
        raise SpartaError(
            f"{setting} {value!r} is unknown: did you mean {nearest!r}? Valid: {', '.join(valid)}"
        )
