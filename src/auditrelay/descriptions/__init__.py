"""
Audit-log APIs described in files: where things are, without expressions, conditions or state.

A shipped description is a TOML file in ``vendors``; an operator's file is the same thing. ``load``
reads one and checks it, ``model`` has its tables, ``places`` the notation of places in requests,
replies and records.
"""
