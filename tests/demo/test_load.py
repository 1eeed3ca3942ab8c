"""A thousand pictures from 32 visitors at once, sent to the command as it runs: none is lost, none
is another's, and each is answered as it would have been alone."""

import asyncio
import io
import sys

import pytest

httpx = pytest.importorskip("httpx2")

VISITORS, REQUESTS = 32, 1000


def test_none_lost_or_crossed(demo_process, digits_run, encode):
    address = demo_process("--batch-size", "16")
    pictures = [encode(seed) for seed in range(REQUESTS)]

    async def visit(number):
        """One visitor's pictures: (seed, answer) of each, and what the server then lists."""
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            answers = []
            for seed in range(number, REQUESTS, VISITORS):
                file = (f"{seed}.png", pictures[seed])
                answer = await client.post("/api/images", files={"image": file})
                assert answer.status_code == 201, answer.text
                answers.append((seed, answer.json()))
            return answers, (await client.get("/api/images")).json()

    async def visits():
        return await asyncio.gather(*(visit(number) for number in range(VISITORS)))

    results = asyncio.run(visits())
    assert sum(len(answers) for answers, _ in results) == REQUESTS
    ids = set()
    for answers, listed in results:
        assert listed == [picture for _, picture in answers]
        assert [picture["name"] for picture in listed] == [f"{seed}.png" for seed, _ in answers]
        ids |= {picture["id"] for picture in listed}
    assert len(ids) == REQUESTS
    # Another visitor's answer would show: random pictures differ in their probabilities.
    for seed, picture in results[5][0] + results[17][0]:
        (alone,) = digits_run.predict(_crop(pictures[seed]))
        assert [p["label"] for p in picture["predictions"]] == [p.label for p in alone]
        probabilities = [p["probability"] for p in picture["predictions"]]
        assert probabilities == pytest.approx([p.probability for p in alone], abs=1e-5)


def test_beyond_the_queue_some_come_back(demo_process, encode):
    """With one place, visitors at once are turned away, and all are served in the end."""
    address = demo_process("--queue", "1")
    picture = encode(1, size=(2000, 1500))

    async def persist(client):
        refusals = 0
        while True:
            answer = await client.post("/api/images", files={"image": ("a.png", picture)})
            if answer.status_code == 201:
                return refusals
            assert answer.status_code == 503 and answer.headers["retry-after"]
            refusals += 1
            await asyncio.sleep(0.05)

    async def visits():
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            return await asyncio.gather(*(persist(client) for _ in range(8)))

    assert sum(asyncio.run(visits())) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow(demo_process, encode):
    """Over 1,000 requests that keep nothing; each picture is 1.4 MB when decoded."""
    address = demo_process()
    process = demo_process.at[address]
    picture = encode(1, "JPEG", size=(800, 600))

    def resident():  # KiB
        with open(f"/proc/{process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def ask(times):
        for _ in range(times):
            answer = client.post("/api/classify", files={"image": ("a.jpg", picture)})
            assert answer.status_code == 200, answer.text
        return resident()

    with httpx.Client(base_url=address, timeout=120) as client:
        before = ask(100)
        grown = ask(REQUESTS) - before
    assert grown < 8 << 10, f"{grown} KiB more after {REQUESTS} requests"


def _crop(contents):
    from fastconv.demo import Limits
    from fastconv.demo.uploads import decode

    with io.BytesIO(contents) as stream:
        return decode(stream.read(), Limits())
