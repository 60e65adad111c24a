"""The static files of the page, served with an ETag so that they are sent only once."""

import hashlib
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Assets:
    """An endpoint for ``/static/{name}``."""

    def __init__(self) -> None:
        self._files = {
            path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in _FOLDER.iterdir()
        }

    async def serve(self, request: Request) -> Response:
        """Answer with a file, or with 304 if the browser has it already."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            return Response(status_code=404)
        content, kind = found
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            "Cache-Control": "no-cache",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)
