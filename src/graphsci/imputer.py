"""`GraphSCI`: the bridge between AnnData and the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphsci import estimates as es
from graphsci._imputing import annotation, estimating
from graphsci._imputing.as_batch import check_as_batch, left_note
from graphsci._imputing.estimating import Cells, EstimateBlock
from graphsci._imputing.gene_notes import gene_notes
from graphsci._imputing.misfits import misfit_note
from graphsci._imputing.model_io import load_model, save_model
from graphsci._imputing.request import Request
from graphsci._keys import DEFAULT_KEY, keys
from graphsci._log import Log, say_nothing
from graphsci._terminal import shown
from graphsci._versions import versions
from graphsci.config import Config, preset
from graphsci.gene_graph.graph import GeneGraph
from graphsci.io.files import check_writable
from graphsci.nn.devices import choose_device
from graphsci.nn.model import CountNetwork
from graphsci.preprocessing import (
    CountData,
    GeneMatch,
    genes_without_a_batch,
    match_genes,
    open_counts,
    unused_batches,
    usual_batches,
)
from graphsci.prior_knowledge.known_networks import user_graph
from graphsci.training import fitting
from graphsci.training import loop as training
from graphsci.training.checking import NO_VERDICT
from graphsci.training.checkpoint import Checkpoint
from graphsci.verdict import Verdict

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.io.sources import CountSource
    from graphsci.training.distributed import Team


class GraphSCI:
    """Recover single-cell gene expression and its gene network.

    Parameters
    ----------
    config
        Hyper-parameters; the preset ``default`` if None.
    **options
        Single hyper-parameters, e.g. ``seed=1`` or ``preset="paper"``; see
        :class:`graphsci.Config` for all of them.

    Examples
    --------
    >>> model = graphsci.GraphSCI(seed=0).fit(adata)
    >>> model.impute(adata)
    >>> adata.layers["denoised"]

    Notes
    -----
    Cost of :meth:`fit`: memory for the counts of up to 20,000 cells a few times over, one dense
    block of (batch, genes) a few times over, and (genes, hidden) weights; no cells x genes and
    no genes x genes matrix. Counts in memory are not copied beyond that, counts on disk stay
    there (docs/scale.md).
    """

    def __init__(self, config: Config | None = None, **options: Any) -> None:
        if config is None:
            config = preset(options.pop("preset", "default"))
        if not isinstance(config, Config):
            raise TypeError(
                f"config: got {type(config).__name__}, expected a graphsci.Config; single options "
                "are keywords: GraphSCI(max_epochs=20)."
            )
        self.config = config.replace(**options)
        self._fitted: fitting.Fitted | None = None

    def __repr__(self) -> str:
        changed = self.config.changes()
        options = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        if self._fitted is None:
            return f"GraphSCI({options}), not trained"
        spec, line = self.fitted.spec, self.fitted.verdict and self.fitted.verdict.line()
        return (
            f"GraphSCI({options}), {spec.likelihood}, trained on {len(spec.gene_names):,} genes, "
            f"epoch {self.fitted.best_epoch} of {len(self.fitted.history)}\n"
            f"{line or 'Not checked against held-out molecules.'}"
        )

    # -- training ----------------------------------------------------------------------------

    def fit(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        allow_fractional: bool = False,
        gene_graph: GeneGraph | sparse.spmatrix | NDArray | pd.DataFrame | None = None,
        progress: bool | training.Progress | None = None,
        log: Log = say_nothing,
        checkpoint: Checkpoint | None = None,
        team: Team | None = None,
        whole: bool = False,
    ) -> GraphSCI:
        """Train on raw counts. ``adata`` is not changed.

        Parameters
        ----------
        adata
            Cells x genes with raw counts in ``X`` or in a layer; sparse or dense. Backed
            (``anndata.read_h5ad(path, backed="r")``, ``graphsci.read_counts(path, backed=True)``
            also for zarr), the counts stay on disk and are read in chunks; the numbers are the
            same. Only the preset ``paper`` reads them into memory.
        layer
            Layer with the counts; ``X`` if None.
        batch_key
            Column of ``obs`` with the batch of each cell: each batch gets its own gene
            offsets, so that the embedding need not explain them.
        allow_fractional
            Accept non-integral counts, e.g. after ambient correction.
        gene_graph
            A known network to use instead of one computed from the counts, or beside it with
            ``network_weight`` below 1: a
            :class:`~graphsci.gene_graph.GeneGraph`, a (genes, genes) matrix, sparse or dense,
            in the order of ``adata.var_names``, or a table of edges with the columns ``gene_a``,
            ``gene_b`` and, if there are weights, ``weight``.
        progress
            None shows a bar with the time left on a terminal and in a notebook; True also writes
            lines where there is neither; False shows nothing. A function is called after every
            epoch with its record and the number planned instead; within epochs and passes over
            the counts :func:`graphsci.advance.heard_by` tells.
        log
            Called with one line before every stage.
        checkpoint
            Where the state of a long training is kept; training goes on from what is there.
        team
            The processes that train together, from :func:`graphsci.training.distributed.join`;
            each of them calls this with the same data.
        whole
            Half a model is of no use: an interrupt of training goes on to the caller whenever it
            comes, and the model stays as it was.

        Raises
        ------
        ValueError, TypeError
            If the values are no raw counts, or the checkpoint is of another run; the message
            says what was found and what to do.
        FloatingPointError
            If the loss is not finite: the learning rate is too large.
        KeyboardInterrupt
            If interrupted before the first epoch ended; later, the best weights so far are kept,
            unless only a ``whole`` model is wanted.

        Warns
        -----
        UserWarning
            If the values look unlike raw counts, though they might be.
        """
        if gene_graph is None and self.config.network_weight < 1:
            raise ValueError(
                f"network_weight: got {self.config.network_weight}, but no known network to weigh. "
                "Give one (gene_graph=..., command line: --network), or leave the weight out."
            )
        with shown(progress) as told:
            data = open_counts(
                adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
            )
            if batch_key is None and self.config.preset == "default":
                data = data._replace(notes=(*data.notes, *unused_batches(adata)))
            data = _with_doubts_of_batches(data, adata, batch_key)
            for doubt in data.doubts:
                warnings.warn(doubt, stacklevel=2)
            graph = None if gene_graph is None else user_graph(gene_graph, data.gene_names)
            self._fitted = fitting.fit(
                data,
                self.config,
                user_graph=graph,
                progress=told,
                log=log,
                checkpoint=checkpoint,
                team=team,
                whole=whole,
            )
        for note in self.notes:
            if note.startswith(NO_VERDICT):
                warnings.warn(note, stacklevel=2)
        copies = self.copies()
        if copies is not None and self.config.copies == 0:
            warnings.warn(
                f"These counts look like reads: they were divided by {copies.median():.3g}, the "
                "counts that a molecule of the median gene seems to have left. copies=1 takes each "
                "for a molecule.",
                stacklevel=2,
            )
        elif (left := self.fitted.copies_left) > 1:
            warnings.warn(
                f"These counts look like reads, about {left:.3g} of each molecule, and were taken "
                "for molecules: estimates and verdict are of the library, not of the cell. What to "
                "do about it is in the notes of the run (GraphSCI.notes).",
                stacklevel=2,
            )
        return self

    @property
    def fitted(self) -> fitting.Fitted:
        """The trained model and its record."""
        if self._fitted is None:
            raise RuntimeError("This GraphSCI is not trained: call fit(adata) or load(path) first.")
        return self._fitted

    @property
    def count_network(self) -> CountNetwork | None:
        """The network of the preset ``default``; None with ``paper``, whose parts are others."""
        network = self.fitted.network
        return network if isinstance(network, CountNetwork) else None

    @property
    def verdict(self) -> Verdict | None:
        """The check against held-out molecules; None if there was none.

        With ``check=False``, for too few cells, or where training was interrupted.
        """
        return self.fitted.verdict

    @property
    def notes(self) -> tuple[str, ...]:
        """What training found and decided that a user should know, one sentence each."""
        return self.fitted.notes

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: losses, learning rate, seconds."""
        return pd.DataFrame(self.fitted.history, columns=training.EpochRecord._fields)

    @property
    def gene_names(self) -> NDArray[np.str_]:
        """(genes,) genes of the model: those detected in training."""
        return self.fitted.spec.gene_names

    @property
    def gene_graph(self) -> GeneGraph:
        """The gene graph A that the model was trained with."""
        return self.fitted.spec.graph

    def gene_embedding(self) -> pd.DataFrame:
        """Gene embedding, (genes, latent), by gene name.

        Preset ``default``: loadings, log expression per standard deviation of each axis of
        :meth:`latent`; inner products are covariances of log expression over the cells trained
        on. Preset ``paper``: posterior mean of Z_N.
        """
        with torch.inference_mode():
            values = self.fitted.network.gene_coordinates().numpy(force=True)
        return pd.DataFrame(values, index=self.gene_names)

    def inverse_dispersion(self) -> pd.Series | None:
        """Theta of each gene in a cell of average certainty; None with the preset `paper`.

        The variance is mu + mu^2 / theta, of counts / :meth:`copies` where counts were
        divided; a cell's certainty multiplies theta (docs/method.md).
        """
        network = self.count_network
        if network is None:
            return None
        return pd.Series(network.inverse_dispersion.numpy(force=True), index=self.gene_names)

    def variation_p_values(self) -> pd.Series | None:
        """P-value of each gene that its expression does not follow the state of the cell.

        From a score test of its counts on the state that other genes show, along axes learned from
        other cells (:mod:`graphsci.training.predictability`). Genes
        above ``config.variation_level``, or the level that the run's notes name, and others
        without evidence keep their mean share in every cell but for a trace. None for preset
        ``paper``.
        """
        values = self.fitted.p_values
        return None if values is None else pd.Series(values, index=self.gene_names)

    def state_weights(self) -> pd.Series | None:
        """How far each gene follows the state of the cell; None with the preset `paper`.

        The probability that it varies predictably, and 0.01 without evidence of that
        (docs/method.md, "No invented correlation"); 1 for all with ``variation_level=1``.
        """
        network = self.count_network
        if network is None:
            return None
        return pd.Series(network.state_weight.numpy(force=True), index=self.gene_names)

    def copies(self) -> pd.Series | None:
        """Counts that a molecule of each gene left, by which counts were divided; else None.

        Where they are reads, or ``config.copies`` says so; estimates are multiplied by it again.
        """
        spec = self.fitted.spec
        return pd.Series(spec.copies, index=spec.gene_names) if spec.is_divided else None

    def dropout_curve(self) -> dict[str, float] | None:
        """P(dropped) = sigmoid(intercept + slope log mu); None without a shared curve (NB).

        mu in molecules where counts were divided by :meth:`copies`.
        """
        network = self.count_network
        if network is None or not network.zero_inflated:
            return None
        intercept, slope = network.dropout_curve.tolist()
        return {"intercept": intercept, "slope": slope}

    # -- estimates ---------------------------------------------------------------------------

    def impute(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        allow_fractional: bool = False,
        estimates: Sequence[es.Estimate] = ("denoised",),
        genes: Sequence[str] | None = None,
        depth: es.Depth = "own",
        scale: es.Scale = "counts",
        interval: float | None = None,
        as_batch: str | None = None,
        key_added: str = DEFAULT_KEY,
        prefix: str = "",
        copy: bool = False,
        progress: bool | None = None,
    ) -> AnnData | None:
        """Write estimates for the cells of ``adata``, trained on or new, into it.

        Parameters
        ----------
        adata
            Raw counts; genes are matched by name, in any order. ``X`` is never changed.
        layer, batch_key, allow_fractional
            Where the counts are, as in :meth:`fit`.
        estimates
            Any of ``mean``, ``denoised``, ``imputed`` and ``imputed_median``; see
            :mod:`graphsci.estimates`. ``denoised`` brings ``denoised_sd``.
        genes
            Estimate these genes only: names, or a boolean mask of ``var``. They land in
            ``obsm[key_added + "_" + prefix + estimate]`` as tables (cells, chosen genes) instead
            of layers.
        depth
            ``own``: at each cell's own library size. ``common``: at the median library size
            of the training cells.
        scale
            ``counts`` or ``log1p``, the natural logarithm of 1 + counts.
        interval
            Level of a central posterior interval of the rate, e.g. 0.9. It counts the noise of the
            entry and of what was learned of its gene and its cell (docs/method.md); the preset
            ``paper`` takes what was learned as known. It lands in ``denoised_lower`` and
            ``denoised_upper``.
        as_batch
            Name of a batch: ``mean`` and ``denoised`` of all cells as they would be there, so that
            batches can be compared (docs/method.md, "As of one batch"). None leaves each cell in
            its own batch.
        key_added
            Name of the run; see Returns.
        prefix
            Put in front of the names of layers.
        copy
            Return a changed copy instead of changing ``adata``.
        progress
            As in :meth:`fit`.

        Returns
        -------
        None, or the copy. Written are

        - ``layers[estimate]``: dense float32 (cells, genes), 4 bytes per entry and estimate.
          Where the model knows nothing of a gene (not in its training data, or never seen
          expressed there) ``imputed`` keeps the measured counts, and all estimates are 0
          for a gene unexpressed in training where it is unexpressed again, NaN otherwise. Cells
          without counts are 0 in all of them, the standard deviation too: nothing is said of them;
        - ``obsm["X_" + key_added]``: cell embedding (:meth:`latent`);
        - ``obs[key_added + "_library"]``: counts of the cell in all genes of ``adata``;
        - ``obs[key_added + "_size_factor"]``: its depth by its counts in the model's genes, 1 the
          common depth: an estimate at own depth divided by it is that at common depth; 0 of a cell
          without counts there;
        - ``obs[key_added + "_certainty"]``: how closely the cell keeps to its state
          (:meth:`certainty`);
        - ``obs[key_added + "_misfit"]``: how far its counts are from what the model predicts for
          it; above 1 further than in 99 of 100 cells of known kinds (:mod:`graphsci.nn.misfit`);
        - ``varm[key_added]``, ``varp[key_added + "_graph"]``: gene embedding and graph;
        - ``var[key_added + "_inverse_dispersion"]``, ``var[key_added + "_variation_p"]``,
          ``var[key_added + "_state_weight"]``: theta in an average cell, the p-value of predictable
          variation, and how far the gene therefore follows the state of the cell; for reads
          ``var[key_added + "_copies"]`` (:meth:`copies`);
        - ``uns[key_added]``: what each number means, with parameters, versions and verdict of
          this run; what an earlier run under the same key said of estimates that it left under
          other names stays. Estimates of another model deserve a ``key_added`` of their own.

        Warns
        -----
        UserWarning
            If the model knows nothing of some expressed genes, which then are NaN; if more than
            a tenth of the molecules it was trained on are of genes that ``adata`` lacks; if a layer
            or another slot is replaced that no run under ``key_added`` wrote; if many cells fit the
            model worse than those it was trained on.
        """
        request = Request.of(
            adata, estimates, genes, depth=depth, scale=scale, interval=interval, as_batch=as_batch
        )
        check_as_batch(request.as_batch, self.fitted.spec.batch_names)
        slots, names, spec = keys(key_added, prefix=prefix), request.names, self.fitted.spec
        stored = slots.layer if genes is None else slots.table
        request.refuse_no_room(adata, copy=copy)
        if genes is None:
            request.refuse_overwriting(layer, slots)
        layers = [stored(name) for name in names] if genes is None else []
        for note in annotation.replaced_notes(adata, layers, slots):
            warnings.warn(note, stacklevel=2)
        columns = request.columns
        with shown(progress):
            cells = self.prepare(
                adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
            )
            told = gene_notes(spec, cells, columns)
            for note in told:
                warnings.warn(note, stacklevel=2)
            if batch_key is not None and cells.batch_key is None:
                warnings.warn(estimating.no_effect(batch_key), stacklevel=2)
            adata = adata.copy() if copy else adata
            found = estimating.estimate_all(self.fitted, cells, request, latent=slots.latent)
        for name in names:
            if genes is None:
                adata.layers[stored(name)] = found.values[name]
            else:
                adata.obsm[stored(name)] = pd.DataFrame(
                    found.values[name], index=adata.obs_names, columns=adata.var_names[columns]
                )
        annotation.annotate_cells(self, adata, cells, slots, found)
        annotation.annotate_genes(self, adata, slots)
        written = [stored(name) for name in names]
        adata.uns.update(annotation.without_replaced(adata, written, slots))
        adata.uns[slots.uns] = record = annotation.record_of_data(
            self, adata, cells, request, slots, stored=stored, layer=layer
        )
        record["notes"] += told
        said = (
            misfit_note(self.fitted, cells, found.misfit, slots.misfit),
            left_note(self.fitted, cells, found.values[slots.latent], request.as_batch),
            estimating.copies_note(self.fitted, cells),
        )
        for note in filter(None, said):
            record["notes"].append(note)
            warnings.warn(note, stacklevel=2)
        return adata if copy else None

    def iterate_estimates(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        allow_fractional: bool = False,
        estimates: Sequence[es.Estimate] = ("denoised",),
        genes: Sequence[str] | None = None,
        depth: es.Depth = "own",
        scale: es.Scale = "counts",
        interval: float | None = None,
        as_batch: str | None = None,
    ) -> Iterator[EstimateBlock]:
        """Yield the same numbers as :meth:`impute` in blocks of cells; nothing is written.

        Memory: 2,000 cells as counts, 500 as estimates. Use it where cells x genes would not
        fit.

        Parameters
        ----------
        adata
            Raw counts; genes are matched by name, in any order.
        layer, batch_key, allow_fractional
            Where the counts are, as in :meth:`fit`.
        estimates, genes, depth, scale, interval, as_batch
            What is estimated, as in :meth:`impute`.
        """
        request = Request.of(
            adata, estimates, genes, depth=depth, scale=scale, interval=interval, as_batch=as_batch
        )
        check_as_batch(request.as_batch, self.fitted.spec.batch_names)
        cells = self.prepare(
            adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
        )
        for note in gene_notes(self.fitted.spec, cells, request.columns):
            warnings.warn(note, stacklevel=2)
        return estimating.estimate_blocks(self.fitted, cells, request)

    def latent(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        allow_fractional: bool = False,
    ) -> NDArray[np.float32]:
        """Cell embedding of ``adata``, (cells, latent).

        Preset ``default``: along axes in which cells are uncorrelated, the clearest first, in
        standard errors: two cells at distance d differ by d times what the counts of a typical
        cell leave open of its state (:class:`graphsci.nn.state_axes.StateAxes`). So distances
        are meant for neighbours as they are, unscaled. Preset ``paper``: posterior mean of Z_M.

        Parameters
        ----------
        adata
            Raw counts of cells trained on, or new.
        layer, batch_key, allow_fractional
            Where the counts are, as in :meth:`fit`.
        """
        cells = self.prepare(
            adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
        )
        return estimating.cell_embedding(self.fitted.network, cells)

    def certainty(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        allow_fractional: bool = False,
    ) -> NDArray[np.float32] | None:
        """How closely each cell keeps to its state, (cells,); None with the preset `paper`.

        theta of an entry is this, to the power of the gene's :meth:`state_weights`, times theta of
        the gene (:meth:`inverse_dispersion`). About 1 in a usual cell of the training data, usually
        less where few molecules, or none, leave the state uncertain. It follows from the state
        alone, and says nothing of cells that training lacked: :meth:`impute` writes their misfit.
        :meth:`impute` writes it into ``obs``; there it is
        ``exp(obsm["X_graphsci"] @ uns["graphsci"]["certainty_weights"])``, within e^-3 to e^3.
        Costs a pass of the encoder over the cells.

        Parameters
        ----------
        adata
            Raw counts of cells trained on, or new.
        layer, batch_key, allow_fractional
            Where the counts are, as in :meth:`fit`.
        """
        network = self.count_network
        if network is None:
            return None
        embedding = self.latent(
            adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
        )
        return estimating.cell_certainty(network, embedding)

    def match(self, adata: AnnData) -> GeneMatch:
        """How the genes of ``adata`` match those of the model, by name."""
        return match_genes(self.gene_names, np.asarray(adata.var_names, dtype=np.str_))

    # -- files -------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model to a folder: safetensors and JSON, complete or not at all.

        Parameters
        ----------
        path
            The folder.
        overwrite
            Whether it may replace a saved model; a folder that holds more it never does.
        """
        check_writable(path, overwrite=overwrite, folder=True)
        save_model(self.fitted, path, versions=versions())

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> GraphSCI:
        """Read a model folder; it gives the same numbers as the model that was saved.

        Parameters
        ----------
        path
            The folder that :meth:`save` or ``graphsci impute --save-model`` wrote.
        device
            Where the model is from now on, wherever it was trained: ``auto`` (GPU if there is
            one), ``cpu``, ``cuda`` or ``cuda:N``.
        """
        loaded = load_model(path, device=choose_device(device))
        model = cls(loaded.spec.config.replace(device=device))
        model._fitted = loaded
        return model

    # -- the bridge --------------------------------------------------------------------------

    def prepare(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        allow_fractional: bool = False,
    ) -> Cells:
        """Check the counts of ``adata`` and bring them to the model's genes and batches.

        Parameters
        ----------
        adata
            Raw counts of cells trained on, or new.
        layer, batch_key, allow_fractional
            Where the counts are, as in :meth:`fit`.
        """
        return estimating.prepare(
            self.fitted.spec,
            adata,
            layer=layer,
            batch_key=batch_key,
            allow_fractional=allow_fractional,
        )


def _with_doubts_of_batches(
    data: CountData[CountSource], adata: AnnData, batch_key: str | None
) -> CountData[CountSource]:
    """Add what is to be said of genes that a batch lacks; without a key, of columns like one.

    Once: several columns may tell the same batches apart.
    """
    columns = [*usual_batches(adata)] if batch_key is None else [batch_key]
    batches = [adata.obs[column] for column in columns]
    said = genes_without_a_batch(data.counts, data.gene_names, *batches)
    if said is None:
        return data
    return data._replace(doubts=(*data.doubts, said), notes=(*data.notes, said))
