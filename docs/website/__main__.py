"""Write the source of the site into a folder: ``python -m docs.website FOLDER`` (`make docs`)."""

import sys
from pathlib import Path

from docs.website.pages import BrokenPageError, Site

if __name__ == "__main__":
    try:
        Site(Path(sys.argv[1])).write()
    except BrokenPageError as error:
        sys.exit(str(error))
