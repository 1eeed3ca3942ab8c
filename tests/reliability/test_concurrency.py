"""Ops from many threads and in child processes; every wait ends by itself."""

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch
from reliability.everything import calls
from torch.utils.data import DataLoader, Dataset

import fastconv

ROUNDS = int(os.environ.get("FASTCONV_ROUNDS", 20))  # the long run: 1000
WAIT = 300 + ROUNDS  # seconds

# Their results are the same bits whatever runs beside them.
NAMES = ["conv2d", "conv2d, strided", "conv2d, dilated", "tiled_conv2d", "max_pool2d",
         "max_unpool2d", "avg_pool2d", "stochastic_pool2d, mean", "maxout", "local_response_norm",
         "local_response_norm_max_pool2d", "local_contrast_norm"]  # fmt: skip


def results(name):
    return calls()[name]()


def test_many_threads_while_the_number_of_threads_changes():
    expected = {name: results(name) for name in NAMES}
    wrong, stop = [], threading.Event()

    def work(first):
        for round in range(ROUNDS):
            name = NAMES[(first + round) % len(NAMES)]
            if not all(map(torch.equal, results(name), expected[name])):
                wrong.append(name)

    def turn():
        threads = 1
        while not stop.wait(0.002):
            threads = 3 - threads
            torch.set_num_threads(threads)

    before = torch.get_num_threads()
    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    turner = threading.Thread(target=turn, daemon=True)
    try:
        for thread in (*workers, turner):
            thread.start()
        for thread in workers:
            thread.join(WAIT)
            assert not thread.is_alive(), "a thread hangs"
    finally:
        stop.set()
        turner.join(10)
        torch.set_num_threads(before)
    assert not wrong


class Pooled(Dataset):
    """Runs ops in the worker, as a transform might."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.stack([results(name)[0].double().sum() for name in NAMES])


def _with_two_threads(_worker):
    torch.set_num_threads(2)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("threads_in_worker", [1, 2])
def test_workers_after_ops_ran_here(method, threads_in_worker):
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # the parent has OpenMP threads, which a fork does not copy
    try:
        expected = Pooled()[0]
        loader = DataLoader(
            Pooled(), batch_size=2, num_workers=2, multiprocessing_context=method, timeout=WAIT,
            worker_init_fn=_with_two_threads if threads_in_worker == 2 else None,
        )  # fmt: skip
        rounds = max(1, ROUNDS // 20) if method == "fork" else 1
        for _ in range(rounds):
            for batch in loader:
                assert (batch == expected).all()
    finally:
        torch.set_num_threads(before)


def _child(call, queue):
    torch.set_num_threads(2)
    queue.put(call().numpy())


def _convolution():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 16, 32, 32, generator=generator)
    weight = torch.randn(32, 16, 3, 3, generator=generator)
    return lambda: fastconv.conv2d(x, weight, algorithm="fastconv")


def _pooling():
    x = torch.randn(8, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    return lambda: fastconv.max_pool2d(x, 3, 2)


@pytest.mark.parametrize("op", [_convolution, _pooling])
def test_fork_after_a_parallel_region(op):
    # The child asks for two threads; torch's own ops would wait there for threads it has not got.
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    context = multiprocessing.get_context("fork")
    call = op()
    try:
        expected = call()
        for _ in range(max(1, ROUNDS // 10)):
            queue = context.Queue()
            child = context.Process(target=_child, args=(call, queue))
            child.start()
            try:
                found = queue.get(timeout=WAIT)
                child.join(WAIT)
                assert child.exitcode == 0
            finally:
                child.kill()
            assert torch.equal(expected, torch.from_numpy(found))
    finally:
        torch.set_num_threads(before)


def test_import_in_a_subprocess_of_a_busy_process():
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            results("conv2d")

    thread = threading.Thread(target=busy, daemon=True)
    thread.start()
    try:
        code = "import torch, fastconv; print(fastconv.max_pool2d(torch.ones(1, 2, 2), 2).item())"
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT
        )
    finally:
        stop.set()
        thread.join(WAIT)
    assert found.stdout == "1.0\n", found.stderr
