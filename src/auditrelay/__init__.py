"""
Carry SaaS audit logs into SIEMs: every event, once, soon, with proof that nothing is missing.

::

                schedule
                   |
      source --> window --> pages --> event --> store --> batch --> sink
      (vendor)   (pure)    (walk)   (classify,  (ledger,  (render,  (HEC, Datadog,
                                     redact)     spool)    split)    bulk)
      '-------------- collect --------------'   '-------- deliver --------'

Two loops with a durable store between them. ``collect`` is one poll of one source, ``deliver``
is one batch to one sink, and the store is the only place where they meet. Delivery is
at-least-once, deduplicated by uid where the sink can. A full spool pauses polling (backpressure).
"""

from importlib.metadata import version

__version__ = version("auditrelay")
