"""Pictures of every mode, and folders of them."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from cnnengine.engine.data import load, read_image
from cnnengine.engine.errors import InputError

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def ramp(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (6, 8, channels), np.uint8)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_read_image__grey_and_rgb_are_exact(tmp_path):
    grey = save(tmp_path / "g.png", Image.fromarray(GREY))
    rgb = save(tmp_path / "c.png", Image.fromarray(ramp(3)))
    np.testing.assert_array_equal(read_image(grey, None, None), GREY[..., None])
    np.testing.assert_array_equal(read_image(grey, (6, 8), 3), np.dstack([GREY] * 3))
    np.testing.assert_array_equal(read_image(rgb, None, None), ramp(3))
    luma = read_image(rgb, None, 1)[..., 0]
    np.testing.assert_allclose(luma, ramp(3) @ [0.299, 0.587, 0.114], atol=1)


def test_read_image__transparency_is_laid_on_white(tmp_path):
    pixels = ramp(4)
    path = save(tmp_path / "a.png", Image.fromarray(pixels, "RGBA"))
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(read_image(path, None, None), expected, atol=1)
    clear = save(tmp_path / "la.png", Image.fromarray(np.dstack([GREY, GREY * 0]), "LA"))
    assert (read_image(clear, None, None) == 255).all()
    assert read_image(clear, None, None).shape == (6, 8, 1)


def test_read_image__palette_with_and_without_transparency(tmp_path):
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    plain = save(tmp_path / "p.png", indexed)
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert read_image(plain, None, None).tolist() == [
        [list(red), list(green)],
        [list(blue), list(green)],
    ]
    holed = save(tmp_path / "t.png", indexed, transparency=bytes([255, 0, 255]))
    assert read_image(holed, None, None)[0, 1].tolist() == [255, 255, 255]
    assert read_image(holed, None, None)[0, 0].tolist() == list(red)


def test_read_image__format_that_the_reader_does_not_know(tmp_path, capfd):
    """Pillow raises NotImplementedError here, and logs on the way."""
    path = save(tmp_path / "d.dds", Image.fromarray(ramp(3)))
    content = bytearray(path.read_bytes())
    content[80:84] = bytes(4)  # pixel format flags: none
    path.write_bytes(content)
    with pytest.raises(InputError, match="d.dds: not a readable picture"):
        read_image(path, None, None)
    many = save(tmp_path / "m.tiff", Image.fromarray(ramp(3)))
    content = bytearray(many.read_bytes())
    at = content.index(b"\x15\x01")  # samples per pixel
    content[at + 8 : at + 10] = b"\xff\x7f"
    many.write_bytes(content)
    with pytest.raises(InputError, match="m.tiff: not a readable picture"):
        read_image(many, None, None)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", [b"\xe4", b"a\nb"])
def test_load__class_names_are_text(tmp_path, name):
    for label in (b"fine", name):
        save(tmp_path / os.fsdecode(label) / "0.png", Image.fromarray(GREY))
    with pytest.raises(InputError, match="the class name .* is no valid text"):
        load(tmp_path)


def test_load__file_names_need_not_be_utf8(tmp_path):
    for label in ("a", "b"):
        for number in (b"\xe4", b"\xf6"):
            name = os.fsdecode(number + b".png")
            save(tmp_path / label / name, Image.fromarray(GREY))
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (2, 2)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_read_image__sixteen_bits_scale_to_eight(tmp_path, suffix):
    wide = np.array([[0, 128, 129], [32768, 65534, 65535]], np.uint16)
    path = save(tmp_path / f"w.{suffix}", Image.fromarray(wide))
    expected = np.floor(wide / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path, None, None)[..., 0], expected)


def test_read_image__one_bit_cmyk_and_float(tmp_path):
    bits = save(tmp_path / "b.png", Image.fromarray(GREY > 100))
    np.testing.assert_array_equal(read_image(bits, None, None)[..., 0], (GREY > 100) * 255)
    ink = save(tmp_path / "k.tiff", Image.new("CMYK", (3, 2), (0, 255, 255, 0)))
    assert (read_image(ink, None, None) == [255, 0, 0]).all()
    floating = save(tmp_path / "f.tiff", Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(InputError, match="mode F has no stated range"):
        read_image(floating, None, None)


def test_read_image__camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "o.png", Image.fromarray(GREY), exif=exif)
    np.testing.assert_array_equal(read_image(path, None, None)[..., 0], np.rot90(GREY, -1))


def test_read_image__other_proportions_are_cut_not_squeezed(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    path = save(tmp_path / "w.png", Image.fromarray(wide))
    assert (read_image(path, 10, 1) == 200).all()
    assert read_image(path, (5, 7), 3).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a readable picture"), (b"text", "not a readable picture"), (None, "no such file")],
)
def test_read_image__not_a_picture(tmp_path, content, message):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.png: {message}") as caught:
        read_image(path, 8, 1)
    assert "\n" not in str(caught.value)


def test_read_image__of_a_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder; name pictures in it"):
        read_image(tmp_path, 8, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff"])
def test_read_image__truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError, match="not a readable picture"):
        read_image(path, 8, 1)


@pytest.mark.parametrize("limit", [4000, 1000])
def test_read_image__decompression_bomb(tmp_path, monkeypatch, limit):
    path = save(tmp_path / "x.png", Image.new("L", (80, 80)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match="decompression bomb"):
        read_image(path, 8, 1)


def test_read_image__size_and_channels_are_checked(tmp_path):
    path = save(tmp_path / "x.png", Image.new("L", (8, 8)))
    with pytest.raises(InputError, match="image size 0x3"):
        read_image(path, (0, 3), 1)
    with pytest.raises(InputError, match="channels 4"):
        read_image(path, 3, 4)


@pytest.fixture
def pets(tmp_path):
    """Two classes: 10 cats and 15 dogs (some deeper down), grey, 8x6."""
    root = tmp_path / "pets"
    for name, count in (("cat", 10), ("dog", 15)):
        for number in range(count):
            deeper = "more" if number % 4 == 3 else "."
            value = number + (100 if name == "dog" else 0)
            save(root / name / deeper / f"{number}.png", Image.new("L", (8, 6), value))
    return root


def values(dataset):
    return dataset.images[:, 0, 0, 0].tolist()


def test_load__folder_splits_each_class_by_name_and_seed(pets):
    first, again = load(str(pets), seed=3), load(pets, seed=3)
    assert first.name == "pets"
    assert first.train.classes == ("cat", "dog")
    assert first.train.image_shape == (6, 8, 1)
    assert first.train.class_counts().tolist() == [8, 12]
    assert first.test.class_counts().tolist() == [2, 3]
    assert sorted(values(first.train) + values(first.test)) == [*range(10), *range(100, 115)]
    assert ((first.train.images[:, 0, 0, 0] >= 100) == first.train.labels).all()
    assert values(first.test) == values(again.test)
    assert first.fingerprint == again.fingerprint
    assert any(values(first.test) != values(load(pets, seed=seed).test) for seed in range(3))
    assert "20% of each class held out for test" in first.note


def test_load__split_does_not_depend_on_pixels_or_place(pets, tmp_path):
    moved = tmp_path / "elsewhere"
    pets.rename(moved)
    before = load(moved)
    for path in moved.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) + np.uint8(50)).save(path)
    after = load(moved)
    assert [value - 50 for value in values(after.test)] == values(before.test)
    assert after.fingerprint != before.fingerprint


def test_load__folder_with_given_splits(pets, tmp_path):
    root = tmp_path / "given"
    root.mkdir()
    pets.rename(root / "train")
    save(root / "val" / "cat" / "0.png", Image.new("L", (8, 6), 7))
    save(root / "val" / "dog" / "0.png", Image.new("L", (8, 6), 8))
    splits = load(root)
    assert len(splits.train) == 25
    assert values(splits.test) == [7, 8]
    save(root / "val" / "bird" / "0.png", Image.new("L", (8, 6), 8))
    with pytest.raises(InputError, match=r"other classes \(only in one: bird\)"):
        load(root)
    save(root / "test" / "cat" / "0.png", Image.new("L", (8, 6), 8))
    with pytest.raises(InputError, match="one of test and val and nothing else, not test, val"):
        load(root)


def test_load__folder_mixing_grey_and_rgb_becomes_rgb(pets):
    save(pets / "cat" / "0.png", Image.new("RGB", (8, 6), (1, 2, 3)))
    splits = load(pets)
    assert splits.train.image_shape == (6, 8, 3)
    images = np.concatenate([splits.train.images, splits.test.images])
    assert [1, 2, 3] in images[:, 0, 0].tolist()
    assert [114, 114, 114] in images[:, 0, 0].tolist()
    assert load(pets, channels=1).train.image_shape == (6, 8, 1)


def test_load__folder_with_other_sizes_needs_image_size(pets):
    save(pets / "cat" / "0.png", Image.new("L", (5, 5)))
    with pytest.raises(InputError, match=r"differ in size .*, like --image-size 64$"):
        load(pets)
    assert load(pets, image_size=12, channels=3).train.image_shape == (12, 12, 3)


def test_load__unreadable_files_are_refused_or_listed(pets):
    for number in range(5):
        (pets / "dog" / f"bad{number}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"5 unreadable files: .*bad0.*bad2.* and 2 more$"):
        load(pets)
    splits = load(pets, skip_bad=True)
    assert len(splits.skipped) == 5
    assert "bad4.png: not a readable picture" in splits.skipped[4]
    assert "5 unreadable files left out" in splits.note
    assert len(splits.train) + len(splits.test) == 25


def test_load__names_with_a_dot_do_not_count(pets):
    (pets / "cat" / ".listing").write_bytes(b"x")
    (pets / ".git").mkdir()
    assert len(load(pets).train) == 20
    assert "outside" not in load(pets).note


def test_load__files_outside_the_classes_are_told(pets):
    (pets / "README").write_bytes(b"x")
    assert "1 files outside the class folders not read" in load(pets).note


def test_load__broken_link_is_an_unreadable_file(pets):
    (pets / "cat" / "link.png").symlink_to(pets / "nowhere.png")
    with pytest.raises(InputError, match=r"1 unreadable files: .*link\.png: no such file"):
        load(pets)


def test_load__folder_without_enough_classes_or_images(pets):
    (pets / "bird").mkdir()
    with pytest.raises(InputError, match="the class 'bird' has no images"):
        load(pets)
    save(pets / "bird" / "0.png", Image.new("L", (8, 6)))
    with pytest.raises(InputError, match="the class 'bird' has 1 readable images, at least 2"):
        load(pets)
    with pytest.raises(InputError, match="at least two classes, found 1"):
        load(pets / "dog")
