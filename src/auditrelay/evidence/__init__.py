"""
The evidence: what an outside auditor can check without believing this process. Pure.

What changes coverage, delivery or state also writes a fact (``facts``), in the same transaction.
The seal merges the facts of each unit into lines that never change again (``entries``), which are
the leaves of one Merkle tree (``tree``). A head of that tree (``heads``) leaves the machine and
fixes everything before it.
"""
