"""One thread that owns the network: waiting pictures go through it together, in batches."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Busy(Exception):
    """All places are taken; one may come back after `retry_after` seconds."""

    retry_after = 2


class _Job(NamedTuple):
    future: Future
    image: Tensor | None  # a picture to classify, or
    call: Callable[[], Any] | None  # something else that needs the network for itself


class Worker:
    """Runs a network for many threads.

    A caller takes one of the `places` first, so that no more than those are ever in work:

        with worker.place():
            probabilities = worker.classify(image).result()

    Args:
        model: in evaluation mode; images of one size in, logits out.
        batch: pictures in one pass, at most. It takes those that wait, and waits for none.
        places: callers at a time.
    """

    def __init__(self, model: nn.Module, *, batch: int, places: int):
        self.model = model
        self.batch = batch
        self._places = threading.BoundedSemaphore(places)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # bounded by the places
        self._thread = threading.Thread(target=self._work, name="fastconv-demo", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            Busy: there is none; it does not wait.
        """
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            yield
        finally:
            self._places.release()

    def classify(self, image: Tensor) -> Future[Tensor]:
        """The class probabilities, float32 (classes,), of an image (C, H, W)."""
        return self._put(_Job(Future(), image, None))

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """What `function` returns, with the network for itself."""
        return self._put(_Job(Future(), None, function))

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _put(self, job: _Job) -> Future:
        if not self._thread.is_alive():
            raise RuntimeError("the worker is closed")
        self._jobs.put(job)
        return job.future

    def _work(self) -> None:
        waiting: _Job | None = None  # met while a batch was gathered, and not for it
        while True:
            job = waiting or self._jobs.get()
            waiting = None
            if job is None:
                return
            if job.call is not None:
                call = job.call
                _fulfil([job.future], partial(_listed, call))
                continue
            jobs = [job]
            while len(jobs) < self.batch:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None or job.call is not None:
                    if job is None:
                        self._jobs.put(None)  # the end comes after this batch
                    waiting = job
                    break
                jobs.append(job)
            images = [job.image for job in jobs if job.image is not None]
            work = partial(self._probabilities, images)
            _fulfil([job.future for job in jobs], work)

    @torch.inference_mode()
    def _probabilities(self, images: list[Tensor]) -> list[Tensor]:
        device = next(self.model.parameters()).device
        logits = self.model(torch.stack(images).to(device))
        return list(logits.float().softmax(1).cpu())


def _listed(call: Callable[[], Any]) -> list[Any]:
    return [call()]


def _fulfil(futures: list[Future], compute: Callable[[], list]) -> None:
    """Give each future its result, or all of them the error: the thread itself must go on."""
    wanted = [future.set_running_or_notify_cancel() for future in futures]
    try:
        results = compute()
    except BaseException as error:
        for future, is_wanted in zip(futures, wanted, strict=True):
            if is_wanted:
                future.set_exception(error)
        return
    for future, is_wanted, result in zip(futures, wanted, results, strict=True):
        if is_wanted:
            future.set_result(result)
