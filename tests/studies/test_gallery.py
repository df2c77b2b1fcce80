"""Small pictures: the PNG that we write is the image, as another library reads it."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from resprout.core.errors import ResproutError
from resprout.studies._gallery import gallery, png, shown, unit


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 7)])
def test_a_png_holds_the_image_enlarged_without_smoothing(channels, size):
    image = torch.rand(channels, size, size + 1, generator=torch.Generator().manual_seed(0))
    read = np.asarray(Image.open(io.BytesIO(png(image))))
    times = len(read) // size
    assert read.shape[:2] == (size * times, (size + 1) * times)
    want = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    want = want[:, :, 0] if channels == 1 else want
    assert (read == want.repeat(times, 0).repeat(times, 1)).all()


def test_a_gallery_places_every_image_and_caption():
    figure = gallery("some", torch.rand(8, 1, 8, 8), [f"n {i}" for i in range(8)], "eight")
    images = figure.layout["images"]
    assert [(int(i["x"]), int(i["y"])) for i in images] == [*((x, 0) for x in range(6)), (0, 1), (1, 1)]
    assert list(figure.traces[0]["text"]) == [f"n {i}" for i in range(8)]
    head = "data:image/png;base64,"
    assert all(
        Image.open(io.BytesIO(base64.b64decode(i["source"].removeprefix(head)))).size == (64, 64) for i in images
    )


def test_what_cannot_be_shown_is_refused():
    assert shown(torch.rand(2, 3, 4, 4))
    assert not shown(torch.rand(2, 5, 4, 4))
    assert not shown(torch.rand(2, 21))
    with pytest.raises(ResproutError, match="gallery"):
        gallery("none", torch.rand(2, 1, 4, 4), ["one"])
    normal = unit(torch.randn(10, 3, 4, 4))
    assert normal.amin((0, 2, 3)).tolist() == [0] * 3
    assert normal.amax((0, 2, 3)).tolist() == pytest.approx([1] * 3)


def test_pictures_stand_above_the_middle_of_their_captions():
    figure = gallery("some", torch.rand(3, 1, 8, 8), ["a", "b", "c"])
    assert [i["x"] for i in figure.layout["images"]] == list(figure.traces[0]["x"])
    assert all(i["xanchor"] == "center" for i in figure.layout["images"])
