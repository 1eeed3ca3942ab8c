"""The demo's server: answers, sessions, refusals, limits."""

import io
import struct
import threading
import time
import zlib

import pytest
import torch
from PIL import Image

from fastconv.cli import main

pytest.importorskip("fastapi")  # the extra [demo]
from fastapi.testclient import TestClient

from fastconv.demo import Limits, create_app
from fastconv.demo.uploads import clean_name


@pytest.fixture
def serve(digits_run, tmp_path):
    """Starts an application; each call of what it gives is a new visitor."""
    opened = []

    def start(folder=tmp_path / "store", **limits):
        app = create_app(digits_run, folder, top=3, limits=Limits(**limits))
        first = TestClient(app)
        first.__enter__()
        opened.append(first)

        def visitor():
            return TestClient(app)

        visitor.app = app
        return visitor

    yield start
    for client in opened:
        client.__exit__(None, None, None)


def send(client, contents, name="a.png", where="/api/images", kind="image/png"):
    return client.post(where, files={"image": (name, contents, kind)})


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_it_answers_as_the_run_does(kind, serve, digits_run, encode):
    contents = encode(1, kind, (256, 256))
    got = send(serve()(), contents, where="/api/classify").json()["predictions"]
    expected = digits_run.predict(io.BytesIO(contents), top=3)[0]
    assert [p["label"] for p in got] == [p.label for p in expected]
    assert [p["probability"] for p in got] == pytest.approx(
        [p.probability for p in expected], abs=1e-6
    )


@pytest.mark.parametrize("size", [(700, 300), (300, 700), (100, 37), (256, 256), (1, 90)])
def test_what_is_looked_at_is_the_middle(size, serve, encode):
    visitor = serve()()
    contents = encode(2, "PNG", size)
    id = send(visitor, contents).json()["id"]
    shown = visitor.get(f"/api/images/{id}/picture.png").content
    with Image.open(io.BytesIO(contents)) as whole:
        resized = whole.resize(
            tuple(int(256 * n / min(size)) for n in size), Image.Resampling.BILINEAR
        )
    left, top = ((n - 256) // 2 for n in resized.size)
    expected = resized.crop((left, top, left + 256, top + 256))
    with Image.open(io.BytesIO(shown)) as got:
        assert got.size == (256, 256) and got.mode == "RGB"
        difference = torch.frombuffer(bytearray(got.tobytes()), dtype=torch.uint8).int()
        difference -= torch.frombuffer(bytearray(expected.tobytes()), dtype=torch.uint8).int()
    assert difference.abs().max() <= 2  # Pillow rounds between its two passes


def test_an_animation_gives_its_first_frame(serve, encode):
    frames = [Image.open(io.BytesIO(encode(seed, "PNG", (256, 256)))) for seed in (3, 4)]
    stream = io.BytesIO()
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:])
    alone = io.BytesIO()
    frames[0].save(alone, format="GIF")
    visitor = serve()()
    first, both = (send(visitor, s.getvalue(), where="/api/classify") for s in (alone, stream))
    assert first.json() == both.json()


@pytest.mark.parametrize("kind", ["occlusion", "deconvnet"])
def test_pictures_on_demand(kind, serve, encode):
    visitor = serve()()
    id = send(visitor, encode()).json()["id"]
    first = visitor.get(f"/api/images/{id}/{kind}.png")
    assert first.status_code == 200 and first.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(first.content)) as picture:
        assert picture.size == (256, 256)
        assert len(picture.getcolors(1 << 16)) > 4
    assert visitor.get(f"/api/images/{id}/{kind}.png").content == first.content


def test_the_page_and_its_interface_need_nothing_from_elsewhere(serve):
    visitor = serve()()
    for path in ("/", "/api", "/static/demo.js", "/static/demo.css", "/static/icon.svg"):
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        text = answer.text.replace("http://testserver", "").replace("http://www.w3.org/2000", "")
        assert "http://" not in text and "https://" not in text and 'src="//' not in text
    schema = visitor.get("/openapi.json").json()
    assert {"/api/classify", "/api/images", "/api/images/{id}/note"} <= schema["paths"].keys()
    for path in schema["paths"]:
        assert path in visitor.get("/api").text


def test_examples_are_named_right(serve):
    visitor = serve()()
    answers = [visitor.get(f"/examples/{n}.png") for n in range(7)]
    assert [a.status_code for a in answers] == [200] * 6 + [404]


# -- sessions -------------------------------------------------------------------------------------


def test_images_are_their_own_sessions_only(serve, encode):
    visitor = serve()
    one, other, without = visitor(), visitor(), visitor()
    kept = send(one, encode(5), "mine.png").json()
    url = f"/api/images/{kept['id']}"
    assert one.get("/api/images").json() == [kept]
    for stranger in (other, without):
        assert stranger.get("/api/images").json() == []
        for kind in ("picture", "occlusion", "deconvnet"):
            assert stranger.get(f"{url}/{kind}.png").status_code == 404
        assert stranger.put(f"{url}/note", json={"note": "x"}).status_code == 404
        assert stranger.delete(url).status_code == 404
        assert stranger.delete("/api/images").status_code == 204
    assert one.get("/api/images").json() == [kept]
    cookie = one.cookies.get("fastconv_session")
    assert len(cookie) == 64 and cookie != other.cookies.get("fastconv_session")


def test_the_cookie_is_kept_from_scripts_and_other_sites(serve, encode):
    header = send(serve()(), encode()).headers["set-cookie"].lower()
    assert "httponly" in header and "samesite=strict" in header


@pytest.mark.parametrize("cookie", ["", "x" * 64, "../" * 8, "A" * 64, "a" * 63])
def test_a_cookie_that_is_not_ours_is_replaced(cookie, serve, encode):
    visitor = serve()()
    visitor.cookies.set("fastconv_session", cookie)
    given = send(visitor, encode()).headers["set-cookie"]
    assert cookie == "" or cookie not in given


def test_classify_keeps_nothing(serve, encode):
    visitor = serve()
    assert send(visitor(), encode(), where="/api/classify").status_code == 200
    assert visitor.app.state.store.used_bytes() == 0


def test_notes_stay(serve, encode):
    visitor = serve()()
    id = send(visitor, encode()).json()["id"]
    note = {"label": " <b>7</b> ", "note": "your images have objects that are not in the classes"}
    assert visitor.put(f"/api/images/{id}/note", json=note).json()["label"] == "<b>7</b>"
    (kept,) = visitor.get("/api/images").json()
    assert (kept["label"], kept["note"]) == ("<b>7</b>", note["note"])
    too_long = visitor.put(f"/api/images/{id}/note", json={"label": "x" * 101})
    assert too_long.status_code == 422 and "label" in too_long.json()["detail"]
    (kept,) = visitor.get("/api/images").json()
    assert kept["label"] == "<b>7</b>"


def test_all_is_there_after_a_restart(serve, encode, tmp_path):
    visitor = serve()()
    kept = send(visitor, encode()).json()
    stray = tmp_path / "store" / "files" / f"{'0' * 32}.picture.png"
    stray.write_bytes(b"left by a crash")
    again = serve()()
    again.cookies.set("fastconv_session", visitor.cookies.get("fastconv_session"))
    assert again.get("/api/images").json() == [kept]
    assert not stray.exists()


def test_removing(serve, encode, tmp_path):
    visitor = serve()()
    ids = [send(visitor, encode(seed)).json()["id"] for seed in range(3)]
    assert visitor.get(f"/api/images/{ids[1]}/deconvnet.png").status_code == 200
    assert visitor.delete(f"/api/images/{ids[1]}").status_code == 204
    assert visitor.delete(f"/api/images/{ids[1]}").status_code == 404
    assert [p["id"] for p in visitor.get("/api/images").json()] == [ids[0], ids[2]]
    assert visitor.delete("/api/images").status_code == 204
    assert visitor.get("/api/images").json() == []
    assert list((tmp_path / "store" / "files").iterdir()) == []


# -- refusals -------------------------------------------------------------------------------------


def png_of(width, height, rows=None):
    """A PNG of any size in a few bytes: its rows are zero, and all there if `rows` is None."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    count = height if rows is None else rows
    data = b"".join(packer.compress(row) for _ in range(count)) + packer.flush()
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused_files(encode):
    jpeg, png, gif = (encode(6, kind, (300, 300)) for kind in ("JPEG", "PNG", "GIF"))
    return {
        "empty": (b"", 422, "0 bytes"),
        "text": (b"hello, world\n" * 50, 415, "Not a JPEG, PNG or GIF"),
        "html": (b"<html><script>alert(1)</script>", 415, "Not a JPEG, PNG or GIF"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "Not a JPEG, PNG or GIF"),
        "bmp": (encode(6, "BMP"), 415, "Not a JPEG, PNG or GIF"),
        "tiff": (encode(6, "TIFF"), 415, "Not a JPEG, PNG or GIF"),
        "jpeg cut off": (jpeg[: len(jpeg) // 2], 422, "damaged or cut off"),
        "png cut off": (png[: len(png) // 2], 422, "damaged or cut off"),
        "gif cut off": (gif[: len(gif) // 2], 422, "damaged or cut off"),
        "only a signature": (b"\xff\xd8\xff", 422, "damaged or cut off"),
        "png, then rubbish": (b"\x89PNG\r\n\x1a\n" + b"\0" * 900, 422, "damaged or cut off"),
        "gif, then rubbish": (b"GIF89a" + b"\xff" * 900, 422, "damaged or cut off"),
        "51 megapixels": (png_of(7143, 7141, rows=9), 413, "at most 50 megapixels"),
        "a bomb": (png_of(60000, 30000, rows=9), 413, "at most 50 megapixels"),
    }


@pytest.mark.parametrize("case", list(refused_files(lambda *a: b"")))
def test_refusals_say_why_and_harm_nothing(case, serve, encode):
    contents, status, reason = refused_files(encode)[case]
    visitor = serve()
    one = visitor()
    before = send(one, encode(7)).json()
    # What the client says of name and type counts for nothing.
    answer = send(one, contents, "holiday.jpg", kind="image/jpeg")
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["detail"]
    assert one.get("/api/images").json() == [before]
    assert send(one, encode(8)).status_code == 201


def test_fifty_megapixels_are_taken(serve):
    answer = send(serve()(), png_of(10000, 5000))
    assert answer.status_code == 201, answer.text


def test_the_type_is_what_the_contents_are(serve, encode):
    answer = send(serve()(), encode(9, "PNG"), "notes.txt", kind="text/plain")
    assert answer.status_code == 201


def test_too_many_bytes_are_refused_while_they_come(serve):
    visitor = serve()
    client = visitor()
    taken = 0

    def endless():
        nonlocal taken
        head = 'Content-Disposition: form-data; name="image"; filename="a.jpg"'
        yield f"--x\r\n{head}\r\n\r\n".encode() + b"\xff\xd8\xff"
        while taken < 200_000_000:
            taken += 1_000_000
            yield bytes(1_000_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/images", content=endless(), headers=headers)
    assert answer.status_code == 413 and "larger than 10 MB" in answer.json()["detail"]
    assert client.get("/api/images").json() == []


def test_ten_megabytes_to_the_byte(serve, encode):
    visitor = serve()()
    picture = encode(10, "JPEG")
    exact = picture + bytes(10_000_000 - len(picture))  # readers stop at the JPEG's end
    assert send(visitor, exact).status_code == 201
    assert send(visitor, exact + b"\0").status_code == 413


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"{}", "application/json"),
        (b"", "multipart/form-data"),
        (b"rubbish", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nno file\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\n'
            b"z\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_forms_that_are_none(body, kind, serve):
    answer = serve()().post("/api/images", content=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 415), answer.text
    assert "image" in answer.json()["detail"]


def test_two_files_in_one_form(serve, encode):
    files = [("image", ("a.png", encode(1))), ("image", ("b.png", encode(2)))]
    answer = serve()().post("/api/images", files=files)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\system32\\x.png", "x.png"),
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),
        ("a\x00b\x1b[31m.png", "ab[31m.png"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("x" * 5000 + ".png", "x" * 79 + "…"),
        ("", "picture"),
        ("..", ".."),
        ("été 2013 ☀.jpg", "été 2013 ☀.jpg"),
    ],
)
def test_hostile_names_are_only_shown(name, shown):
    assert clean_name(name) == shown


@pytest.mark.parametrize(
    "name", ["../../../evil.png", "a/../../b.png", "x" * 3000, "'; DROP TABLE"]
)
def test_hostile_names_do_not_become_paths(name, serve, encode, tmp_path):
    visitor = serve()()
    kept = send(visitor, encode(), name).json()
    files = [p.name for p in (tmp_path / "store" / "files").iterdir()]
    assert files == [f"{kept['id']}.picture.png"]
    assert not list(tmp_path.rglob("*evil*"))
    assert len(visitor.get("/api/images").json()) == 1


@pytest.mark.parametrize("id", ["..", "%2e%2e%2fdemo.sqlite", "x", "0" * 32, "*"])
def test_ids_that_are_none(id, serve):
    assert serve()().get(f"/api/images/{id}/picture.png").status_code == 404


# -- limits of the store and the queue ------------------------------------------------------------


def test_beyond_the_cap_the_oldest_go(serve, encode, tmp_path):
    visitor = serve(store_bytes=400_000)
    one = visitor()
    ids = [send(one, encode(seed, size=(256, 256))).json()["id"] for seed in range(5)]
    left = [p["id"] for p in one.get("/api/images").json()]
    assert 0 < len(left) < 5 and left == ids[-len(left) :]
    on_disk = sum(p.stat().st_size for p in (tmp_path / "store" / "files").iterdir())
    assert on_disk == visitor.app.state.store.used_bytes() <= 400_000


def test_pictures_expire(serve, encode, tmp_path, monkeypatch):
    visitor = serve(keep_seconds=100)
    one = visitor()
    id = send(one, encode()).json()["id"]
    now = time.time()
    monkeypatch.setattr("fastconv.demo.store.time.time", lambda: now + 101)
    assert one.get("/api/images").json() == []
    assert one.get(f"/api/images/{id}/picture.png").status_code == 404
    visitor.app.state.store.sweep()
    assert list((tmp_path / "store" / "files").iterdir()) == []


def test_a_full_session(serve, encode):
    visitor = serve(per_session=2)
    one, other = visitor(), visitor()
    assert [send(one, encode(s)).status_code for s in range(3)] == [201, 201, 409]
    assert send(other, encode()).status_code == 201


def test_beyond_the_queue_one_is_asked_to_come_back(serve, encode):
    visitor = serve(places=1)
    hold, held = threading.Event(), threading.Event()
    worker = visitor.app.state.worker

    def block():
        held.set()
        hold.wait(30)

    with worker.place():
        blocked = worker.call(block)
        assert held.wait(30)
        answer = send(visitor(), encode())
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1 and "try again" in answer.json()["detail"]
        hold.set()
        blocked.result(30)
    assert send(visitor(), encode()).status_code == 201


def test_the_worker_batches_and_survives(serve, digits_run):
    visitor = serve(batch=8)
    worker = visitor.app.state.worker
    sizes = []
    handle = digits_run.model.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    hold = threading.Event()
    worker.call(lambda: hold.wait(30))
    images = torch.rand(20, 1, 8, 8)
    futures = [worker.classify(image) for image in images]
    hold.set()
    got = torch.stack([future.result(30) for future in futures])
    handle.remove()
    assert sizes == [8, 8, 4]
    with torch.no_grad():
        torch.testing.assert_close(got, digits_run.model(images).softmax(1))
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0).result(30)
    assert worker.classify(images[0]).result(30).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["file_bytes", "places", "keep_seconds"])
def test_limits_are_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name}: must be at least 1"):
        Limits(**{name: 0})


# -- the command ----------------------------------------------------------------------------------


def test_the_command_refuses_a_taken_port(digits_path, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", str(digits_path), "--port", str(port)]) == 2
    assert f"{port} on 127.0.0.1 cannot be had" in capsys.readouterr().err


def test_the_command_refuses_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["demo", str(tmp_path), "--port", "0"]) == 2
    assert "not a run" in capsys.readouterr().err
