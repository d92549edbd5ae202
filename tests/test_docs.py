"""The tutorial runs and shows what it shows; the documentation names what there is."""

import importlib
import inspect
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


#: Where users find functions: what a module offers (``__all__``) or, without that, has of its own.
PUBLIC = [
    "graphsci",
    *(f"graphsci.{name}" for name in ("tl", "pl", "io", "network", "evaluation", "gene_graph")),
    *(f"graphsci.{name}" for name in ("prior_knowledge", "simulation", "verdict")),
]


def public_functions():
    """Yield name and function: of modules, and of the public methods and makers of classes."""
    for place in PUBLIC:
        module = importlib.import_module(place)
        own = [n for n, value in vars(module).items() if getattr(value, "__module__", "") == place]
        for name in getattr(module, "__all__", None) or own:
            found = getattr(module, name)
            if inspect.isfunction(found) and not name.startswith("_"):
                yield f"{place}.{name}", found
            elif inspect.isclass(found):
                if not hasattr(found, "_fields") and not issubclass(found, Exception):
                    yield f"{place}.{name}", found  # fields of a tuple have comments: #:
                for part, value in vars(found).items():
                    method = value.__func__ if isinstance(value, classmethod) else value
                    if inspect.isfunction(method) and not part.startswith("_"):
                        yield f"{place}.{name}.{part}", method


def described(text):
    """Names in the section of parameters of a docstring; ``a, b`` are two."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.M | re.S)
    lines = section[1].splitlines() if section else []
    heads = [line.split(" : ")[0] for line in lines if line[:1].strip()]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


@pytest.mark.parametrize(
    ("name", "function"), [pytest.param(*f, id=f[0]) for f in public_functions()]
)
def test_every_parameter_is_described(name, function):
    """But for a function of one required parameter, which its sentence is about."""
    said = inspect.getdoc(function)
    assert said, "no docstring"
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    parameters = [p for p in parameters if p.name != "cls"]
    alone = len(parameters) == 1 and parameters[0].default is parameters[0].empty
    if alone and parameters[0].kind is not inspect.Parameter.VAR_KEYWORD:
        return
    missing = [p.name for p in parameters if p.name not in described(said)]
    unknown = described(said) - {p.name for p in parameters}
    assert not missing, f"{name} does not describe {missing}"
    assert not unknown, f"{name} describes {unknown}, which it does not take"
