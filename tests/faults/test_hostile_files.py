"""Files from others: whatever they hold, a command says one clear line and ends with status 2.

Sound files are damaged in a hundred ways each: bytes changed, cut off, put in or taken out, values
replaced by others. A damaged file may still be readable; what must not happen is another exception,
or code of the file's being run.
"""

import io
import json
import pickle
import random
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from fastconv import training
from fastconv.cli import main
from fastconv.data import ImageError, open_image
from fastconv.detection import AnnotationError, read_coco, read_voc

FORMATS = {
    "JPEG": {"quality": 80},
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_deflate"},
    "WEBP": {},
}


def damaged(whole: bytes, seed: int) -> bytes:
    """`whole` with a few bytes changed, cut off, put in or taken out."""
    draw = random.Random(seed)
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at = draw.randrange(len(data) or 1)
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:  # fields of lengths and sizes stand near the start
                at = draw.randrange(min(len(data), 64) or 1)
                data[at : at + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 2:
                del data[at:]
            case 3:
                del data[at : at + draw.randrange(1, 64)]
            case 4:
                data[at:at] = draw.randbytes(draw.randrange(1, 64))
            case 5:
                data[at:at] = data[draw.randrange(len(data) or 1) :][:256]
    return bytes(data)


ODD = (None, True, -1, 0, 2**70, 1e999, float("nan"), "", "x" * 300, "\0", [], {}, [[]], {"a": {}})


def odd_values(value, seed: int):
    """A copy of plain values with one of them replaced, a key lost or put in."""
    draw = random.Random(seed)
    value = json.loads(json.dumps(value))
    places = []

    def visit(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(value)
    node, key = draw.choice(places)
    match draw.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node["surplus"] = draw.choice(ODD)
        case _:
            node[key] = draw.choice(ODD)
    return value


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    settings = training.Settings(
        model="digits_convnet", epochs=1, batch_size=256, output=str(folder)
    )
    training.start(settings).fit()
    return folder


@pytest.fixture
def run_copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def command(capsys, *arguments) -> str:
    """Runs a command that must fail for its input; its one line."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as end:  # argparse's own errors
        status = end.code
    said = capsys.readouterr().err.strip()
    assert status == 2, said
    return said.splitlines()[-1]


def command_may_fail(capsys, *arguments) -> int:
    """Runs a command on a damaged file: done (0), or refused in one line (2)."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err.strip()
    assert status in (0, 2), said
    assert status == 0 or said
    return status


# ---- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
def test_images(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    sound = io.BytesIO()
    picture = Image.fromarray(pixels).resize((70, 60), Image.Resampling.BICUBIC)
    picture.save(sound, kind, **FORMATS[kind])
    refused = 0
    for seed in range(100):
        try:
            image = open_image(io.BytesIO(damaged(sound.getvalue(), seed)))
        except ImageError as error:
            assert str(error).startswith("image: ")
            refused += 1
        else:
            assert image.mode == "RGB"
    assert refused > 10  # the damage is real


def png_of(width: int, height: int) -> bytes:
    """A small file that says it holds so many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1_000_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(40_000, 40_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb(run_folder, tmp_path, capsys, size):
    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    with pytest.raises(ImageError, match=r"bomb\.png: "):
        open_image(tmp_path / "bomb.png")
    assert "bomb.png" in command(capsys, "predict", run_folder, tmp_path / "bomb.png")


# ---- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["best.safetensors", "statistics.safetensors", "state.pt"])
def test_files_of_a_run(run_copy, capsys, name):
    # The digits' run has statistics without tensors, which nothing reads twice.
    whole = (run_copy / name).read_bytes()
    use = ["train", "--resume"] if name == "state.pt" else ["predict"]
    picture = run_copy / "digit.png"
    Image.new("L", (8, 8)).save(picture)
    refused = 0
    for seed in range(20 if name == "state.pt" else 100):
        (run_copy / name).write_bytes(damaged(whole, seed))
        arguments = [*use, run_copy] + ([picture] if use == ["predict"] else [])
        refused += command_may_fail(capsys, *arguments) == 2
    assert refused > 5
    (run_copy / name).write_bytes(b"")
    assert name in command(capsys, *arguments)


def test_run_json(run_copy, capsys):
    picture = run_copy / "digit.png"
    Image.new("L", (8, 8)).save(picture)
    whole = (run_copy / "run.json").read_text()
    for seed in range(100):
        (run_copy / "run.json").write_text(json.dumps(odd_values(json.loads(whole), seed)))
        command_may_fail(capsys, "predict", run_copy, picture)
        command_may_fail(capsys, "info", "digits_convnet")
    for seed in range(50):
        (run_copy / "run.json").write_bytes(damaged(whole.encode(), seed))
        command_may_fail(capsys, "predict", run_copy, picture)
    (run_copy / "run.json").write_text("[" * 100_000)
    assert "run.json" in command(capsys, "predict", run_copy, picture)


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", ["state.pt", "best.safetensors", "last.safetensors"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_never_run(run_copy, tmp_path, capsys, name, how):
    place = tmp_path / "ran"
    if how == "torch":
        torch.save({"format": 1, "model": Payload(place)}, run_copy / name)
    else:
        (run_copy / name).write_bytes(pickle.dumps(Payload(place)))
    picture = run_copy / "digit.png"
    Image.new("L", (8, 8)).save(picture)
    if name == "state.pt":
        said = command(capsys, "train", "--resume", run_copy)
    else:
        weights = name.split(".")[0]
        said = command(capsys, "predict", run_copy, picture, "--weights", weights)
    assert name in said
    assert not place.exists()


def test_weights_of_other_names_and_shapes(run_copy, capsys):
    picture = run_copy / "digit.png"
    Image.new("L", (8, 8)).save(picture)
    save_file({"a": torch.zeros(1)}, run_copy / "best.safetensors")
    assert "best.safetensors" in command(capsys, "predict", run_copy, picture)
    state = torch.load(run_copy / "state.pt", weights_only=True)
    for odd in (
        {"model": {}},
        {"model": None},
        {"model": {name: t.flatten()[:1] for name, t in state["model"].items()}},
        {"optimizer": {}},
        {"epoch": "x"},
        {"epoch": -3},
        {"step": 10**6},
    ):
        torch.save({**state, **odd}, run_copy / "state.pt")
        assert "state.pt" in command(capsys, "train", "--resume", run_copy), odd


# ---- texts -------------------------------------------------------------------------------------


def test_settings(tmp_path, capsys):
    sound = {"model": "digits_convnet", "epochs": 1, "lr": 0.1, "model_kwargs": {"dropout": 0.5}}
    path, out = tmp_path / "settings.yaml", tmp_path / "out"
    bombs = ["a: &a [x, x]\nb: &b [*a, *a]\nlr: *b\n", "!!python/object/apply:os.mkdir [ran]\n"]
    texts = [yaml.safe_dump(odd_values(sound, seed)) for seed in range(30)]
    texts += [damaged(yaml.safe_dump(sound).encode(), seed) for seed in range(30)]
    for text in bombs + texts:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        # No epoch is trained: what is asked for after the settings is refused.
        said = command(capsys, "train", tmp_path / "gone", "--config", path, "--output", out)
        assert "Traceback" not in said
    assert not (tmp_path / "ran").exists() and not out.exists()


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.new("RGB", (50, 40)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def test_coco(pictures):
    sound = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 50, "height": 40} for i in range(2)],
        "categories": [{"id": 1, "name": "digit"}],
        "annotations": [
            {"id": 5, "image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 20], "iscrowd": 0},
            {"id": 6, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 40]},
        ],
    }
    path = pictures / "instances.json"
    path.write_text(json.dumps(sound))
    assert len(read_coco(path)) == 2
    texts = [json.dumps(odd_values(sound, seed)).encode() for seed in range(200)]
    texts += [damaged(json.dumps(sound).encode(), seed) for seed in range(100)]
    texts += [b"[" * 100_000, b"\xff\xfe", b"{}", b"null"]
    refused = 0
    for text in texts:
        path.write_bytes(text)
        try:
            read_coco(path)
        except AnnotationError as error:
            assert "instances.json" in str(error)
            refused += 1
    assert refused > 100


def test_voc(pictures):
    sound = (
        "<annotation><filename>0.png</filename><size><width>50</width><height>40</height></size>"
        "<object><name>digit</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin>"
        "<xmax>31</xmax><ymax>20</ymax></bndbox></object></annotation>"
    )
    (pictures / "annotations").mkdir()
    path = pictures / "annotations" / "0.xml"
    path.write_text(sound)
    assert len(read_voc(pictures)) == 1
    texts = [damaged(sound.encode(), seed) for seed in range(200)]
    for number in ("1e999", "nan", "-5", "", "9" * 400, "0x10"):
        texts += [sound.replace(old, number).encode() for old in ("50", "40", "31", "20", "2<")]
    entity = '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    texts += [(entity + sound.replace("digit", "&f;")).encode()]
    big = '<!ENTITY a "' + "ha" * 50 + '">'
    for i in range(8):
        big += f'<!ENTITY a{i} "{(f"&a{i - 1};" if i else "&a;") * 10}">'
    texts += [(f"<!DOCTYPE a [{big}]>" + sound.replace("digit", "&a7;")).encode()]
    refused = 0
    for text in texts:
        path.write_bytes(text)
        try:
            found = read_voc(pictures)
        except AnnotationError as error:
            assert "0.xml" in str(error)
            refused += 1
        else:
            assert all("root:" not in name for entry in found for name in entry.labels)
    assert refused > 100
