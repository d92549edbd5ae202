"""The work of the commands on files: counts read, models trained, outputs written whole.

``impute``, ``network``, ``evaluate`` and ``info`` are the work of the commands of these names;
``files``, ``checks``, ``output`` and ``summary`` are what they share.
"""
