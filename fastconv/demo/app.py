"""The demo as an ASGI application: pages, the JSON interface, sessions."""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from fastconv._version import __version__
from fastconv.demo.classifier import Classifier, png
from fastconv.demo.examples import example_pictures
from fastconv.demo.limits import MEGABYTE, Limits
from fastconv.demo.store import SessionFull, Store, Stored
from fastconv.demo.uploads import FIELD, SIDE, Refused, decode, read_upload
from fastconv.demo.worker import Busy, Worker
from fastconv.run import Run

HERE = Path(__file__).parent
COOKIE = "fastconv_session"
_SWEEP_SECONDS = 60
_DECODERS = 2  # threads: a decoded 50-megapixel picture takes 150 MB
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_T = TypeVar("_T")


class Prediction(BaseModel):
    """One guess of the network."""

    label: str = Field(description="the class as the run calls it")
    name: str = Field(description="the class's name for people")
    probability: float = Field(description="from 0 to 1")


class Classification(BaseModel):
    """What the network sees in a picture."""

    predictions: list[Prediction] = Field(description="the most probable classes, best first")


class Picture(Classification):
    """A picture that the session keeps."""

    id: str
    name: str = Field(description="its file name")
    label: str = Field(description="what the visitor says that it shows; may be empty")
    note: str = Field(description="the visitor's note; may be empty")
    created: float = Field(description="seconds since 1970")


class Note(BaseModel):
    """What a visitor says of a picture; both may be empty."""

    model_config = ConfigDict(extra="forbid")
    label: str = Field("", max_length=100, description="what the picture shows, class or not")
    note: str = Field("", max_length=1000, description="anything else")


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "The session has no such picture"}
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Not a form with one file"},
    408: {"model": Problem, "description": "The upload took too long"},
    413: {"model": Problem, "description": "Too many bytes or pixels"},
    415: {"model": Problem, "description": "Not a JPEG, PNG or GIF by its contents"},
    422: {"model": Problem, "description": "Empty, damaged or cut off"},
    503: {"model": Problem, "description": "Too many at once; Retry-After says when to come back"},
}
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def session_of(request: Request) -> str:
    """The visitor's session: from the cookie, or a new one that nobody can guess."""
    given = request.cookies.get(COOKIE, "")
    if len(given) == 64 and set(given) <= set("0123456789abcdef"):
        return given
    return secrets.token_hex(32)


Session = Annotated[str, Depends(session_of)]


def create_app(
    run: Run, folder: str | Path, *, top: int = 5, limits: Limits | None = None
) -> FastAPI:
    """The demo of a run.

    Args:
        run: an open run, its model on the device that is to be used.
        folder: where pictures and notes are kept; made if absent.
        top: classes an answer.
        limits: what it takes and keeps.
    """
    limits = limits or Limits()
    classifier = Classifier(run, top)
    examples = example_pictures(run)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.store = Store(folder, limits)
        app.state.worker = Worker(run.model, batch=limits.batch, places=limits.places)
        app.state.decoders = ThreadPoolExecutor(_DECODERS, "fastconv-decode")
        sweeper = asyncio.create_task(_sweep(app.state.store))
        try:
            yield
        finally:
            sweeper.cancel()
            app.state.decoders.shutdown()
            app.state.worker.close()
            app.state.store.close()

    app = FastAPI(
        title=f"fastconv demo: {run.config['model']['name']}",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere; ours is at /api
        redoc_url=None,
    )
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    templates = Jinja2Templates(HERE / "templates")
    add_answers_to_errors(app)

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable) -> Response:
        response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def in_thread(function: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(app.state.decoders, function, *arguments)

    async def classified(contents: bytes) -> tuple[Image.Image, list[dict[str, Any]]]:
        """The crop of a file and what the network sees in it."""
        with app.state.worker.place():
            picture = await in_thread(decode, contents, limits)
            image = await in_thread(classifier.input, picture)
            probabilities = await asyncio.wrap_future(app.state.worker.classify(image))
        return picture, classifier.predictions(probabilities)

    # -- pages ------------------------------------------------------------------------------------

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(request: Request) -> Response:
        values = {
            "model": run.config["model"]["name"],
            "classes": classifier.names,
            "examples": len(examples),
            "limits": limits,
            "megabyte": MEGABYTE,
            "is_digits": run.config["input_size"][0] == 1,
        }
        response = templates.TemplateResponse(request, "page.html", values)
        _keep_session(request, response, session_of(request), limits)
        return response

    @app.get("/api", response_class=HTMLResponse, include_in_schema=False)
    async def api_page(request: Request) -> Response:
        values = {"schema": app.openapi(), "base": str(request.base_url).rstrip("/")}
        return templates.TemplateResponse(request, "api.html", values)

    @app.get("/examples/{number}.png", include_in_schema=False)
    async def example(number: int) -> Response:
        if not 0 <= number < len(examples):
            raise HTTPException(404, "There is no such example.")
        return Response(examples[number], media_type="image/png")

    # -- for programs -----------------------------------------------------------------------------

    @app.post(
        "/api/classify",
        response_model=Classification,
        responses=_REFUSALS,
        openapi_extra=_UPLOAD,
        summary="Classify one picture; nothing is kept",
    )
    async def classify(request: Request) -> dict:
        upload = await read_upload(request, limits)
        _, predictions = await classified(upload.contents)
        return {"predictions": predictions}

    @app.get("/api/classes", response_model=list[str], summary="The names of the classes")
    async def classes() -> list[str]:
        return classifier.names

    # -- what a session keeps ---------------------------------------------------------------------

    @app.post(
        "/api/images",
        response_model=Picture,
        status_code=201,
        responses={**_REFUSALS, 409: {"model": Problem, "description": "The session is full"}},
        openapi_extra=_UPLOAD,
        summary="Classify one picture and keep it for this session",
    )
    async def add_image(request: Request, response: Response, session: Session) -> Stored:
        upload = await read_upload(request, limits)
        picture, predictions = await classified(upload.contents)
        contents = await in_thread(png, picture)
        try:
            store = app.state.store
            kept = await asyncio.to_thread(store.add, session, upload.name, predictions, contents)
        except SessionFull:
            raise HTTPException(
                409, f"You keep {limits.per_session} pictures already; remove some first."
            ) from None
        _keep_session(request, response, session, limits)
        return kept

    @app.get("/api/images", response_model=list[Picture], summary="The session's pictures")
    def list_images(session: Session) -> list[Stored]:
        return app.state.store.list(session)

    @app.delete("/api/images", status_code=204, summary="Remove all of the session's pictures")
    def remove_images(session: Session) -> None:
        app.state.store.remove(session)

    @app.delete("/api/images/{id}", status_code=204, responses=_NOT_FOUND, summary="Remove one")
    def remove_image(id: str, session: Session) -> None:
        if not app.state.store.remove(session, id):
            raise _no_picture()

    @app.put(
        "/api/images/{id}/note",
        response_model=Picture,
        responses=_NOT_FOUND,
        summary="Say what a picture shows",
    )
    def annotate(id: str, note: Note, session: Session) -> Stored:
        store = app.state.store
        changed = store.annotate(session, id, note.label.strip(), note.note.strip())
        kept = store.get(session, id) if changed else None
        if kept is None:
            raise _no_picture()
        return kept

    @app.get(
        "/api/images/{id}/{kind}.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **_NOT_FOUND, 503: _REFUSALS[503]},
        summary="The crop that was looked at, and what the network saw in it",
    )
    async def image(
        id: str, kind: Literal["picture", "occlusion", "deconvnet"], session: Session
    ) -> Response:
        store = app.state.store
        contents = await asyncio.to_thread(store.read_file, session, id, kind)
        if contents is None and kind != "picture":
            contents = await made(session, id, kind)
        if contents is None:
            raise _no_picture()
        headers = {"Cache-Control": "private, no-store"}
        return Response(contents, media_type="image/png", headers=headers)

    async def made(session: str, id: str, kind: str) -> bytes | None:
        """A picture on demand, made by the worker and kept; None where the image is not there."""
        store, worker = app.state.store, app.state.worker
        original = await asyncio.to_thread(store.read_file, session, id, "picture")
        if original is None:
            return None
        crop = Image.open(io.BytesIO(original)).convert("RGB")
        make = getattr(classifier, f"{kind}_png")
        with worker.place():
            contents = await asyncio.wrap_future(worker.call(lambda: make(crop)))
        await asyncio.to_thread(store.add_file, session, id, kind, contents)
        return contents

    return app


def _keep_session(request: Request, response: Response, session: str, limits: Limits) -> None:
    response.set_cookie(
        COOKIE,
        session,
        max_age=limits.keep_seconds,
        httponly=True,
        samesite="strict",  # no other site can act in the visitor's name
        secure=request.url.scheme == "https",
    )


def add_answers_to_errors(app: FastAPI) -> None:
    """Turn refusals into answers ``{"detail": sentence}``."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse({"detail": error.message}, error.status)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return JSONResponse(
            {"detail": "Too many pictures at once; please try again in a moment."},
            503,
            {"Retry-After": str(error.retry_after)},
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        reasons = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return JSONResponse({"detail": "; ".join(reasons)}, 422)


def _no_picture() -> HTTPException:
    return HTTPException(404, "You have no such picture; it may have expired.")


async def _sweep(store: Store) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        await asyncio.to_thread(store.sweep)


__all__ = ["COOKIE", "SIDE", "create_app"]
