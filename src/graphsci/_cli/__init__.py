"""The program's commands: a module of flags for each, and what they share.

``impute`` (with ``apply``), ``network``, ``evaluate``, ``simulate``, ``info`` and ``demo`` are the
commands; ``command``, ``options`` and ``config`` turn functions into commands; ``outcome``,
``errors`` and ``processes`` say what is said, and where it runs. Nothing heavy is imported here.
"""
