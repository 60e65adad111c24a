"""
Add the made-up SIEM to the real ones, in every process that has this folder on its path.

An installed package would do the same with its files: no file of auditrelay is changed.
"""

from importlib import import_module
from pathlib import Path

for name in ("sinks", "sandbox/siems"):
    package = import_module(f"auditrelay.{name}".replace("/", "."))
    package.__path__.append(str(Path(__file__).parent / name))
