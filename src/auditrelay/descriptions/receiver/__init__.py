"""
Receivers of events described in files: how a batch is written, and what each answer means.

``model`` has the tables of a file, ``load`` reads and checks one, ``rules`` what one table says
about another, ``skeleton`` the JSON texts with names in the places of values, ``settings`` the keys
of a sink that is described. ``sinks.described`` is the sink.
"""
