"""The size of an image by its header, without decoding it."""

from normcli.images import jpeg, png


def header_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height by the header in the first bytes of an image; None if they do not tell."""
    if data[:3] == jpeg.SIGNATURE and (header := jpeg.header(data)) is not None:
        return header.width, header.height
    if data[:8] == png.SIGNATURE and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    from normcli.images import pillow

    return pillow.header_size(data)
