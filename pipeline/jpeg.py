"""JPEG files that are not quite as the standard has them, and yet hold the whole picture."""

from __future__ import annotations

import re
from collections.abc import Iterator

NEXT_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])", re.DOTALL)  # that is not a part of a scan, as restarts are
SCAN, END = b"\xda", b"\xd9"
FRAMES = {bytes([code]) for code in range(0xC0, 0xD0)} - {b"\xc4", b"\xc8", b"\xcc"}


def repaired(content: bytes) -> Iterator[bytes]:
    """Versions of a JPEG file without bytes between its segments, without padding after its last scan, and with an end
    marker: one of them is right if every viewer shows the file. None, where a scan of the picture is missing.

    libjpeg has but one warning for harmless bytes and damage, so who calls decodes these again, and strictly.
    """
    parts, place, components = [content[:2]], 2, 0
    exact: set[tuple[int, int]] = set()  # component and coefficient whose last bit is there (ITU T.81, section G.1.2)
    while (marker := NEXT_MARKER.search(content, place)) and marker[1] != END:
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
        segment = content[marker.end() + 2 : place]
        if marker[1] in FRAMES:
            components = int.from_bytes(segment[5:6])
        elif marker[1] == SCAN:
            *_, first, last, precision = 0, 0, 15, *segment
            if precision & 15 == 0:
                exact |= {(name, i) for name in segment[1:-3:2] for i in range(first, last + 1)}
            after = NEXT_MARKER.search(content, place)
            place = after.start() if after else len(content)
        parts.append(content[marker.start() : place])
    if len(exact) < 64 * max(1, components):  # coefficients of a block
        return
    whole = b"".join(parts)
    picture = whole.rstrip(b"\0\xff")
    tail = whole[len(picture) :]
    # What may belong to the last scan; any zero more could stand in for a part of the picture that is lost
    own = tail[:2] if tail.startswith(b"\xff\0") else tail if len(tail) == 1 else b""
    yield from (picture + own + b"\xff" + END, picture + b"\xff" + END)
