"""Pictures of samples as a figure: small images in rows with a word under each; not a study."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..report.figure import Figure

COLUMNS, PIXELS = 6, 64  # fits a phone; small images are enlarged without smoothing to about so many pixels


def shown(images: Tensor) -> bool:
    """Return whether these inputs (samples, channels, height, width) can be looked at: grey or RGB."""
    return images.dim() == 4 and images.shape[1] in (1, 3) and len(images) > 0


def unit(images: Tensor) -> Tensor:
    """Return images scaled to [0, 1], each channel by its own range over all of them: what normalising did is undone."""
    low = images.amin((0, 2, 3), keepdim=True)
    return (images - low) / (images.amax((0, 2, 3), keepdim=True) - low).clamp_min(1e-12)


def gallery(title: str, images: Tensor, captions: Sequence[str], words: str = "") -> Figure:
    """Return a figure of images side by side.

    Args:
        title: what is common to them.
        images: (samples, 1 or 3, height, width) in [0, 1].
        captions: a few words for each.
        words: what to see, for those who cannot.

    Raises:
        ResproutError: no image, another shape, or other captions.
    """
    if not shown(images) or len(images) != len(captions):
        raise ResproutError(
            f"a gallery is of images (samples, 1 or 3, height, width) with captions, got {images.shape}"
        )
    places = [(i % COLUMNS, i // COLUMNS) for i in range(len(images))]
    rows = places[-1][1] + 1
    pictures = [
        {
            "source": "data:image/png;base64," + base64.b64encode(png(image)).decode(),
            "xref": "x",
            "yref": "y",
            "x": x + 0.5,
            "y": y + 0.05,
            "sizex": 0.84,
            "sizey": 0.7,
            "xanchor": "center",
            "yanchor": "top",
            "sizing": "contain",
            "layer": "above",
        }
        for image, (x, y) in zip(images, places, strict=True)
    ]
    trace = {
        "type": "scatter",
        "mode": "text",
        "name": "",
        "text": list(captions),
        "textposition": "middle center",
        "x": [x + 0.5 for x, _ in places],
        "y": [y + 0.87 for _, y in places],
        "textfont": {"size": 10},
        "hovertemplate": "%{text}<extra></extra>",
    }
    hidden = {"visible": False, "fixedrange": True}
    layout = {
        "xaxis": hidden | {"range": [0, COLUMNS]},
        "yaxis": hidden | {"range": [rows, 0]},
        "images": pictures,
        "height": 100 * rows + 10,
        "margin": {"l": 5, "r": 5, "t": 5, "b": 5},
        "showlegend": False,
    }
    return Figure(title, [trace], layout, words)


def png(image: Tensor) -> bytes:
    """Return one image (1 or 3, height, width) in [0, 1] as a PNG file."""
    times = max(1, round(PIXELS / max(image.shape[-2:])))
    bytes_ = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    bytes_ = bytes_.repeat_interleave(times, 1).repeat_interleave(times, 2).permute(1, 2, 0).contiguous()
    height, width, channels = bytes_.shape
    lines = b"".join(b"\0" + bytes(line.reshape(-1).numpy().data) for line in bytes_)  # each with filter 0
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
