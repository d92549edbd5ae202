"""The networks and what they compute with: tensors in, tensors out; torch and no AnnData.

==================================================  ==============================================
``model``, ``paper_model``                          the two networks, each in order of use
``model_parts``, ``sparse_product``                 what both share
``likelihood``, ``fused_likelihood``                count likelihoods; the default's in one pass
``loading_prior``, ``dispersion_prior``             priors learned together with the weights
``mean_uncertainty``, ``state_axes``, ``misfit``    how well means and states are known, counts fit
``cell_blocks``, ``cell_random``, ``devices``       cells to the device, their random numbers, where
==================================================  ==============================================
"""
