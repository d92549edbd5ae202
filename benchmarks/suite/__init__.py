"""The benchmark suite: environments, methods, cases, judges, studies, tables.

``environments`` makes the peers' virtual environments, ``methods`` names what is compared,
``running`` runs one method in a process of its own and keeps its estimate, ``cases`` builds what
the methods see, ``judges`` scores what they return, ``records`` keeps the scores, ``tables``
writes them. Each study is one module: ``truth``, ``paper``, ``hyper``, ``scale``.
"""
