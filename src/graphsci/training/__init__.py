"""From checked counts to a trained model: arrays in, a network and its record out; no AnnData.

``fitting`` is the whole way. Its parts, in order:

==========================================  ======================================================
``copies``                                  how many counts a molecule left: reads become molecules
``holding_out``                             molecules are withheld before anything is learned
``training_graph``                          the gene graph of a training
``zero_inflation``, ``predictability``      from the counts alone: NB or ZINB; genes that vary
``blocks``                                  cells in chunks, shuffled and divided
``objectives``, ``loop``                    what is minimised, and the loop that does it
``checkpoint``, ``distributed``             a long training on disk; several processes
``variation``, ``checking``                 genes weighed in the trained network; the verdict
==========================================  ======================================================
"""
