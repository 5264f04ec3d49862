"""DATA files: one unambiguous reading, or an error that says why; nothing is unpickled. Regions of the command line."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipcert.load.data import parse_region, read_data
from lipcert.terms.errors import UnreadableError, UsageError
from lipcert.terms.query import Ball, Box

RNG = np.random.default_rng(0)


def saved(folder: Path, x: np.ndarray, y: np.ndarray | None = None, kind: str = "npz") -> Path:
    path = folder / f"data.{kind}"
    if kind == "npz":
        np.savez(path, **({"x": x} if y is None else {"x": x, "y": y}))
    elif kind == "npy":
        np.save(path, x)
    else:
        np.savetxt(path, x, delimiter=",", fmt="%.17g")
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "csv"])
def test_three_formats(tmp_path: Path, kind: str) -> None:
    x = RNG.normal(size=(5, 3))
    found = read_data(saved(tmp_path, x, kind=kind), (1, 3))
    assert found.x.dtype == np.float64
    assert np.array_equal(found.x, x.reshape(5, 1, 3))
    assert found.y is None


def test_labels(tmp_path: Path) -> None:
    x, y = RNG.normal(size=(4, 3)), np.array([0, 1, 2, 1])
    assert np.array_equal(read_data(saved(tmp_path, x, y), (1, 3)).y, y)
    with pytest.raises(UnreadableError, match="4 samples but 3 labels"):
        read_data(saved(tmp_path, x, y[:3]), (1, 3))


def test_uint8_is_scaled_unless_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.array([[0, 51, 255]], dtype=np.uint8)
    path = saved(tmp_path, x)
    assert read_data(path, (1, 3)).x.tolist() == [[[0.0, 0.2, 1.0]]]
    assert "scaled" in capsys.readouterr().err
    assert read_data(path, (1, 3), raw=True).x.tolist() == [[[0.0, 51.0, 255.0]]]
    assert capsys.readouterr().err == ""
    assert read_data(saved(tmp_path, x.astype(np.int64)), (1, 3)).x.tolist() == [[[0.0, 51.0, 255.0]]]


IMAGES = RNG.normal(size=(4, 5, 6, 3))
READ: dict[str, tuple[np.ndarray, tuple[int, ...], np.ndarray]] = {
    "as it is": (IMAGES, (1, 5, 6, 3), IMAGES[:, None].reshape(4, 1, 5, 6, 3)),
    "channels last to first": (IMAGES, (1, 3, 5, 6), np.moveaxis(IMAGES, -1, 1)),
    "channels first to last": (np.moveaxis(IMAGES, -1, 1), (1, 5, 6, 3), IMAGES),
    "grey, no channel": (IMAGES[..., 0], (1, 1, 5, 6), IMAGES[..., 0]),
    "grey, last channel": (IMAGES[..., :1], (1, 1, 5, 6), IMAGES[..., 0]),
    "grey to flat": (IMAGES[..., 0], (1, 30), IMAGES[..., 0]),
    "flat to images": (IMAGES.reshape(4, -1), (1, 3, 5, 6), IMAGES.reshape(4, 3, 5, 6)),
    "sequence turned": (IMAGES[..., 0], (1, 6, 5), np.moveaxis(IMAGES[..., 0], -1, 1)),
    "one sample with batch": (IMAGES[:1], (1, 5, 6, 3), IMAGES[:1]),
    "one sample alone": (IMAGES[0], (1, 5, 6, 3), IMAGES[:1]),
    "one vector": (np.arange(3.0), (1, 3), np.arange(3.0)),
    "numbers for one input": (np.arange(3.0), (1, 1), np.arange(3.0)),
    "one number": (np.array(3.0), (1, 1), np.array([3.0])),
}


@pytest.mark.parametrize("name", READ)
def test_layouts_that_have_one_reading(tmp_path: Path, name: str) -> None:
    x, shape, true = READ[name]
    found = read_data(saved(tmp_path, x), shape).x
    assert found.shape[1:] == shape
    assert np.array_equal(found.reshape(-1), true.reshape(-1))


REFUSED: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
    "size": (RNG.normal(size=(4, 5)), (1, 3)),
    "square images swapped with channels twice": (RNG.normal(size=(4, 6, 3, 5)), (1, 3, 5, 6, 1)),
    "height and width swapped": (RNG.normal(size=(4, 6, 5, 3)), (1, 3, 5, 6)),
    "colours into a flat input": (IMAGES, (1, 90)),
    "grey image of another orientation": (RNG.normal(size=(4, 5, 6, 1)), (1, 1, 6, 5)),
    "grey image turned": (RNG.normal(size=(4, 5, 6)), (1, 1, 6, 5)),
    "empty": (np.zeros((0, 3)), (1, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layouts_with_no_or_two_readings(tmp_path: Path, name: str) -> None:
    x, shape = REFUSED[name]
    with pytest.raises(UsageError, match="do not fit"):
        read_data(saved(tmp_path, x), shape)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(tmp_path: Path, bad: float) -> None:
    x = np.zeros((3, 2))
    x[1, 0] = bad
    for kind in ("npz", "csv"):
        with pytest.raises(UnreadableError, match="sample 1 holds NaN or infinity"):
            read_data(saved(tmp_path, x, kind=kind), (1, 2))


class Bomb:
    def __reduce__(self) -> tuple:
        return os.system, ("touch pickled_code_ran",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = np.array([Bomb()], dtype=object)
    np.save("data.npy", bomb, allow_pickle=True)
    np.savez("data.npz", x=bomb)
    np.savez("labels.npz", x=np.zeros((1, 2)), y=bomb)
    for name in ("data.npy", "data.npz", "labels.npz"):
        with pytest.raises(UnreadableError):
            read_data(name, (1, 2))
    assert not Path("pickled_code_ran").exists()


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    array, archive = tmp_path / "a.npy", tmp_path / "b.npz"
    np.save(array, np.zeros((1, 2)))
    np.savez(archive, x=np.zeros((1, 2)))
    cases = {"a.npz": array.read_bytes(), "b.npy": archive.read_bytes(), "c.npz": b"PK\x03\x04garbage", "d.npy": b"",
             "e.csv": b"a,b\n1,2\n", "f.txt": b"1,2\n", "g.npz": b""}  # fmt: skip
    np.savez(tmp_path / "h.npz", z=np.zeros(2))
    np.savez(tmp_path / "i.npz", x=np.array(["a", "b"]))
    np.savez(tmp_path / "j.npz", x=np.zeros((1, 2), dtype=complex))
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    for name in (*cases, "h.npz", "i.npz", "j.npz", "absent.npz"):
        with pytest.raises(UnreadableError, match=name):
            read_data(tmp_path / name, (1, 2))


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def zipped(content: bytes, **options: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr("x.npy", content)
    return stream.getvalue()


def with_bytes(archive: bytes, *changes: tuple[int, int]) -> bytes:
    """A zip with two-byte fields changed, counted from the local header and from the central one."""
    central = archive.index(b"PK\x01\x02")
    changed = bytearray(archive)
    for local, value in changes:
        changed[local : local + 2] = value.to_bytes(2, "little")
        changed[central + local + 2 : central + local + 4] = value.to_bytes(2, "little")
    return bytes(changed)


GOOD = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }", bytes(16))
HUGE = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2), }", bytes(16))
HOSTILE: dict[str, tuple[str, bytes]] = {
    "encrypted": ("npz", with_bytes(zipped(GOOD), (6, 1))),
    "compression 99": ("npz", with_bytes(zipped(GOOD), (8, 99))),
    "bzip2 that is none": ("npz", with_bytes(zipped(GOOD), (8, 12))),
    "lzma that is none": ("npz", with_bytes(zipped(GOOD), (8, 14))),
    "deflate that is none": ("npz", with_bytes(zipped(GOOD), (8, 8))),
    "7 TiB": ("npz", zipped(HUGE)),
    "7 TiB, alone": ("npy", HUGE),
    "less than is stored": ("npy", GOOD + bytes(8)),
    "negative": ("npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -2), }", bytes(16))),
    "deep header": ("npy", npy("(" * 60 + ")" * 50, bytes(16))),
    "header of another kind": ("npy", npy("{'descr': [], 'shape': None}")),
    "invalid escape in the header": ("npy", npy("{'descr': '\\q', 'fortran_order': False, 'shape': (1, 2), }")),
    "version 3": ("npy", GOOD[:6] + b"\x03" + GOOD[7:]),
    "version 9": ("npy", GOOD[:6] + b"\x09" + GOOD[7:]),
    "csv with a null": ("csv", b"1,2\0\n"),
    "csv that is not UTF-8": ("csv", b"1,\xff\n"),
    "csv with complex numbers": ("csv", b"1,2j\n"),
    "empty csv": ("csv", b""),
    "csv of unequal rows": ("csv", b"1,2\n3\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    kind, content = HOSTILE[name]
    path = tmp_path / f"d.{kind}"
    path.write_bytes(content)
    with pytest.raises((UnreadableError, UsageError), match=kind) as found:
        read_data(path, (1, 2))
    assert len(str(found.value)) < 500
    assert "\n" not in str(found.value)
    assert not recwarn.list


def test_good_files_of_each_kind(tmp_path: Path) -> None:
    """The oracle of the hostile ones: the same bytes, unchanged, are read."""
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        (tmp_path / "d.npz").write_bytes(zipped(GOOD, compression=compression))
        assert read_data(tmp_path / "d.npz", (1, 2)).x.tolist() == [[[0.0, 0.0]]]
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbf1,2\n3,4\n")  # as spreadsheets write it
    assert read_data(tmp_path / "d.csv", (1, 2)).x.reshape(-1).tolist() == [1.0, 2.0, 3.0, 4.0]
    np.save(tmp_path / "d.npy", np.asfortranarray(np.arange(6.0).reshape(3, 2)))
    assert read_data(tmp_path / "d.npy", (1, 2)).x.reshape(-1).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["pipe.npz", "pipe.csv", "folder.npz"])
def test_data_that_are_no_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name) if "pipe" in name else (tmp_path / name).mkdir()
    with pytest.raises(UnreadableError, match=f"{name}: this is a"):
        read_data(tmp_path / name, (1, 2))


LABELS: dict[str, object] = {
    "0-d": np.array(3),
    "complex": np.zeros(3, dtype=complex),
    "infinite": np.array([0, np.inf, 1]),
    "nan": np.array([0, 1, np.nan]),
    "dates": np.zeros(3, dtype="M8[s]"),
    "bytes": np.array([b"a", b"b", b"c"]),
    "structured": np.zeros(3, dtype=[("a", int)]),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"label|y has dtype"):
        read_data(saved(tmp_path, np.zeros((3, 2)), LABELS[name]), (1, 2))


def test_gaps_may_stay(tmp_path: Path) -> None:
    x = np.array([[0.0, 1.0], [np.nan, 2.0]])
    assert np.array_equal(read_data(saved(tmp_path, x), (2,), gaps=True).x, x, equal_nan=True)


# Regions.

MODEL = SimpleNamespace(input_shape=(1, 2), inputs=())


def test_boxes() -> None:
    region = parse_region(MODEL, box="-2:3")  # type: ignore[arg-type]
    assert isinstance(region, Box)
    assert (region.lower.tolist(), region.upper.tolist()) == ([[-2.0, -2.0]], [[3.0, 3.0]])
    region = parse_region(MODEL, box="-2:3,-1.5:2")  # type: ignore[arg-type]
    assert isinstance(region, Box)
    assert (region.lower.tolist(), region.upper.tolist()) == ([[-2.0, -1.5]], [[3.0, 2.0]])
    assert parse_region(MODEL) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("box", ["1", "3:2", "a:b", "0:1,0:1,0:1", "0:nan", "-inf:inf", "0:1:2", ""])
def test_boxes_that_make_no_sense(box: str) -> None:
    with pytest.raises(UsageError, match="--box"):
        parse_region(MODEL, box=box)  # type: ignore[arg-type]


def test_balls(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([[1.0, 2.0], [3.0, 4.0]]))
    region = parse_region(MODEL, at=f"{path}#1", eps=0.5, ball_norm="inf")  # type: ignore[arg-type]
    assert isinstance(region, Ball)
    assert torch.equal(region.center, torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    assert (region.radius, region.norm) == (0.5, "inf")
    assert parse_region(MODEL, at=str(path), eps=0.0).norm == "2"  # type: ignore[arg-type,union-attr]
    for at, eps in ((f"{path}#2", 0.5), (f"{path}#-1", 0.5), (f"{path}#", 0.5), (str(path), None), (str(path), -1.0),
                    (str(path), float("nan")), (str(path), float("inf"))):  # fmt: skip
        with pytest.raises(UsageError):
            parse_region(MODEL, at=at, eps=eps)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one region"):
        parse_region(MODEL, box="0:1", at=str(path), eps=1.0)  # type: ignore[arg-type]
