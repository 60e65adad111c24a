"""
Put the made-up vendor beside the real ones, in every process that has this folder on its path.

What an installed package would do by its files being there: nothing of auditrelay is touched.
"""

from importlib import import_module
from pathlib import Path

for name in ("sources", "events/vendors", "sandbox/vendors"):
    package = import_module(f"auditrelay.{name}".replace("/", "."))
    package.__path__.append(str(Path(__file__).parent / name))
