"""
The auditor's program: it checks what :mod:`auditrelay.evidence` writes, and shares no code with it.

``checker`` proves the main claim alone; the others import it, and ``program`` puts all together.
The folder also runs where auditrelay is not: ``make evidence-checker``.
"""
