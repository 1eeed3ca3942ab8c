"""The web demo: a page on which people drop pictures and see what a run makes of them.

``fastconv demo RUN`` serves it; `create_app` gives the application for any ASGI server.
It needs ``pip install "fastconv[demo]"``.
"""

try:
    import fastapi  # noqa: F401
    import jinja2  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'the demo needs {error.name}, which is not installed: pip install "fastconv[demo]"'
    ) from None

from fastconv.demo.app import create_app
from fastconv.demo.limits import Limits
from fastconv.demo.server import listen, serve, url_of

__all__ = ["Limits", "create_app", "listen", "serve", "url_of"]
