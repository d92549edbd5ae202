"""The tutorial runs, from the first line to the last, and shows what it shows."""

import importlib
import re
from pathlib import Path

import anndata
import pytest
from matplotlib import pyplot

import graphsci

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("default")  # of scanpy's own steps
def test_the_tutorial_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", TUTORIAL, flags=re.DOTALL))
    assert "GraphSCI(seed=0)" in code
    names: dict = {}
    exec(code.replace("GraphSCI(seed=0)", "GraphSCI(seed=0, max_epochs=3)"), names)
    pyplot.close("all")
    saved = anndata.read_h5ad("imputed.h5ad")
    assert {"denoised", "denoised_sd"} <= set(saved.layers)
    assert {"graphsci", "chosen"} <= set(saved.uns)
    assert {"X_graphsci", "X_umap"} <= set(saved.obsm)
    assert saved.obs["leiden"].nunique() > 2
    assert len(graphsci.network.stored_network(saved).edges) == len(names["network"].edges)
    assert names["new"].layers["denoised"].shape == (50, 765)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every relative link and picture of the documentation exists."""
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    missing = [
        target
        for target in targets
        if not target.startswith(("http:", "https:")) and not (page.parent / target).exists()
    ]
    assert not missing


def resolves(name):
    """Whether a dotted name leads to an attribute of the package."""
    found = graphsci
    for part in name.removeprefix("graphsci.").split("."):
        try:
            found = getattr(found, part, None) or importlib.import_module(
                f"{found.__name__}.{part}"
            )
        except (ImportError, AttributeError):
            return False
    return True


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_names_of_the_package_exist(page):
    """``nn.model.CountNetwork`` and its like are where the documentation says."""
    text = page.read_text(encoding="utf-8")
    packages = {path.stem for path in Path(graphsci.__file__).parent.glob("[!.]*")}
    names = re.findall(r"`(?:graphsci\.)?([a-z_]+(?:\.[A-Za-z_]+)+)", text)
    unknown = [name for name in names if name.split(".")[0] in packages and not resolves(name)]
    assert not [name for name in unknown if not name.endswith((".md", ".json", ".csv", ".NAME"))]
