"""Hyper-parameters: one home, bounds that are enforced, errors that name the field."""

import copy
import inspect
import pickle
import re
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from graphsci import GraphSCI
from graphsci.config import (
    PAPER,
    PRESETS,
    Config,
    default_in_words,
    later_seed,
    option_names,
    preset,
    read_config,
)

FIELDS = {field.name: field for field in fields(Config)}
BOUNDED = [
    (name, side)
    for name, field in FIELDS.items()
    for side in ("low", "high")
    if field.metadata[side] is not None
]


def beyond(name: str, side: str) -> float:
    """Return the nearest value outside a bound."""
    bound, away = FIELDS[name].metadata[side], -1 if side == "low" else 1
    if type(FIELDS[name].default) is int:
        return bound + away
    return float(np.nextafter(bound, away * np.inf))


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is(name):
    text = FIELDS[name].metadata["help"]
    assert len(text) > 20
    assert text.endswith(".")


def test_every_number_has_a_lower_bound():
    numbers = {n for n, field in FIELDS.items() if type(field.default) in (int, float)}
    assert {"seed", "n_latent", "learning_rate"} <= numbers
    assert numbers <= {name for name, side in BOUNDED if side == "low"}


def rest_for(name):
    """Other fields with which any value of one is allowed."""
    if FIELDS[name].metadata["preset"] == "paper":
        return {"preset": "paper"}
    return {"kept_low": 0.05} if name == "kept_high" else {"kept_high": 0.95}


@pytest.mark.parametrize(("name", "side"), BOUNDED)
def test_bounds_are_enforced_and_inclusive(name, side):
    with pytest.raises(ValueError, match=rf"^{name}: got .*, expected a value in \["):
        Config(**{name: beyond(name, side)})
    bound = FIELDS[name].metadata[side]
    assert getattr(Config(**{**rest_for(name), name: bound}), name) == bound


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if type(f.default) is float])
def test_nan_is_refused_and_whole_numbers_are_taken_as_float(name):
    with pytest.raises(ValueError, match=f"^{name}: got nan"):
        Config(**{name: float("nan")})
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    if low <= 1 and (high is None or high >= 1):
        assert type(getattr(Config(**{**rest_for(name), name: 1}), name)) is float


@pytest.mark.parametrize(
    ("preset_name", "name", "value"),
    [
        ("default", "l2", 1.0),
        ("default", "lr_decay", 0.5),
        ("paper", "loading_scale", 0.2),
        ("paper", "kept_low", 0.5),
    ],
)
def test_options_of_another_preset_are_refused(preset_name, name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value} with preset '{preset_name}'"):
        preset(preset_name, **{name: value})


def test_seeds_fit_every_library():
    assert Config(seed=2**32 - 1).seed == 2**32 - 1
    assert later_seed(2**32 - 1, 3) == 2
    with pytest.raises(ValueError, match=r"seed: got 8589934592, expected .* \[0, 4294967295\]"):
        Config(seed=2**33)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if type(f.default) is float])
def test_infinity_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value}, expected a value in"):
        Config(**{name: value})


def test_numpy_scalars_are_taken_as_plain_values():
    config = Config(
        seed=np.int64(3),
        max_epochs=np.uint8(7),
        learning_rate=np.float32(0.5),
        dropout_rate=np.float64(0.25),
        loading_scale=np.int32(1),
        check=np.bool_(False),
        graph=np.str_("none"),
        device=np.str_("cpu"),
    )
    assert config == Config(
        seed=3,
        max_epochs=7,
        learning_rate=0.5,
        dropout_rate=0.25,
        loading_scale=1.0,
        check=False,
        graph="none",
        device="cpu",
    )
    assert {type(value) for value in config.to_dict().values()} <= {str, int, float, bool}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "fast"}, "preset: got 'fast', expected 'default' or 'paper'"),
        ({"likelihood": "poisson"}, "likelihood: got 'poisson', expected 'auto' or 'nb' or 'zinb'"),
        ({"graph": None}, "graph: got None, expected 'pearson'"),
        (
            {"kept_low": 0.9, "kept_high": 0.8},
            "kept_low: got 0.9, expected at most kept_high = 0.8",
        ),
        (
            {"batch_size": 1},
            r"batch_size: got 1, expected 0 \(chosen for you\) or at least 2 cells",
        ),
        (
            {"loading_scale": 1e-200},
            r"loading_scale: got 1e-200, expected 0 \(chosen for you\) or at least 1e-6",
        ),
        ({"batch_size": np.int64(1)}, "batch_size: got 1, expected 0"),
        ({"learning_rate": np.float32("nan")}, "learning_rate: got nan"),
        ({"n_latent": np.int64(0)}, "n_latent: got 0, expected a value in"),
    ],
)
def test_wrong_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1.5}, "seed: got 1.5, expected a value of type int"),
        ({"seed": True}, "seed: got True, expected a value of type int"),
        ({"learning_rate": "0.1"}, "learning_rate: got '0.1', expected a value of type float"),
        ({"dropout_rate": True}, "dropout_rate: got True, expected a value of type float"),
        ({"check": 1}, "check: got 1, expected a value of type bool"),
        ({"device": 0}, "device: got 0, expected a value of type str"),
        ({"seed": np.float64(1.0)}, r"seed: got 1\.0, expected a value of type int"),
        ({"seed": np.bool_(True)}, "seed: got True, expected a value of type int"),
        ({"check": np.int64(1)}, "check: got 1, expected a value of type bool"),
    ],
)
def test_wrong_types_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        Config(**options)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ValueError, match=r"'learning_rte'\. Did you mean 'learning_rate'\?"):
        Config().replace(learning_rte=0.1)
    with pytest.raises(ValueError, match=r"Unknown hyper-parameter 'zzz'\. Known: preset, "):
        preset("paper", zzz=1)
    with pytest.raises(ValueError, match=r"'copy'\. Did you mean 'copies'\?"):
        Config(copy=3)
    with pytest.raises(ValueError, match="preset: got 'papr', expected one of default, paper"):
        preset("papr")


def test_a_configuration_says_what_it_takes_and_is_copied():
    assert [*inspect.signature(Config).parameters] == [*FIELDS]
    assert inspect.signature(Config).parameters["n_latent"].default == 32
    config = Config(seed=3)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_replace_changes_a_copy_and_checks_it():
    config = Config()
    assert config.replace(seed=3) == Config(seed=3)
    assert config == Config()
    with pytest.raises(ValueError, match="n_latent: got 0"):
        config.replace(n_latent=0)
    with pytest.raises(FrozenInstanceError):
        config.seed = 1


@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize(
    ("graph", "option", "value"),
    [
        ("none", "graph_threshold", 0.5),
        ("none", "graph_top_k", 5),
        ("pidc", "graph_threshold", 0.5),
    ],
)
def test_choices_of_edges_that_the_graph_does_not_use_are_refused(name, graph, option, value):
    message = f"{option}: got {value} with graph '{graph}', which does not use it. Leave it out."
    with pytest.raises(ValueError, match=message):
        GraphSCI(preset=name, graph=graph, **{option: value})
    with pytest.raises(ValueError, match=message):
        preset(name, graph=graph).replace(**{option: value})
    chosen = preset(name, **{option: value})
    assert chosen.replace(graph=graph).graph == graph  # as a control does with a given graph
    usual = preset(name, graph=graph)
    assert usual.replace(**usual.to_dict()) == usual  # what a run record says of a run
    assert GraphSCI(**Config(preset=name, graph=graph).changes()).config.graph == graph


@pytest.mark.parametrize(("config", "other"), [(Config(), "paper"), (PAPER, "default")])
def test_replace_does_not_change_the_preset(config, other):
    """Its sizes come with it: a half-changed preset would be called by the wrong name."""
    message = rf"preset: this configuration is '{config.preset}'; .*graphsci\.preset\('{other}'\)"
    with pytest.raises(ValueError, match=message):
        config.replace(preset=other)
    with pytest.raises(ValueError, match=message):
        preset(config.preset, preset=other, seed=1)
    assert config.replace(preset=config.preset, seed=2) == config.replace(seed=2)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (Config(), {}),
        (Config(seed=2, n_hidden=16), {"n_hidden": 16, "seed": 2}),
        (PAPER, {"preset": "paper"}),
        (PAPER.replace(n_hidden=128), {"preset": "paper", "n_hidden": 128}),
    ],
)
def test_changes_are_what_was_changed_of_the_preset(config, changes):
    assert config.changes() == changes
    assert preset(**{"name": config.preset, **changes}) == config


def test_presets_with_another_default_say_so():
    assert default_in_words("n_latent") == "32"
    assert default_in_words("graph_top_k") == "20; paper: 0"
    assert default_in_words("preset") == "default"


@pytest.mark.parametrize("name", FIELDS)
def test_help_of_the_class_explains_every_field(name):
    said = inspect.getdoc(Config)
    line = next(line for line in said.splitlines() if line.startswith(f"{name} : "))
    assert line.endswith(f", default {default_in_words(name)}")
    assert FIELDS[name].metadata["help"] in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 120


@pytest.mark.parametrize("config", [*PRESETS.values(), Config(seed=9, likelihood="zinb")])
def test_round_trip_through_plain_values(config):
    plain = config.to_dict()
    assert tuple(plain) == option_names()
    assert {type(value) for value in plain.values()} <= {str, int, float, bool}
    assert Config(**plain) == config


def test_paper_preset_has_the_published_values():
    """Supplement: latent 32, hidden 16, Adam 0.01, dropout rate 0.2, L2 1e-3, |PCC| > 0.3."""
    published = {
        "graph": "pearson",
        "graph_threshold": 0.3,
        "graph_top_k": 0,  # eq. 2 keeps every edge above the threshold
        "n_latent": 32,
        "n_hidden": 16,
        "learning_rate": 0.01,
        "lr_decay": 0.9,
        "lr_decay_steps": 50,
        "dropout_rate": 0.2,
        "l2": 1e-3,
        "validation_fraction": 0.1,
    }
    assert {name: PAPER.to_dict()[name] for name in published} == published
    assert preset("paper") == PAPER
    assert preset("default") == Config()
    assert preset("paper", seed=4) == PAPER.replace(seed=4)


def test_toml_is_read(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        "# a comment\nn_latent = 12\nlearning_rate = 1\ngraph = 'none'\ncheck = false\n"
    )
    assert read_config(path) == {
        "n_latent": 12,
        "learning_rate": 1,
        "graph": "none",
        "check": False,
    }
    assert Config(**read_config(str(path))).learning_rate == 1.0


def test_bad_toml_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("n_latent = \n")
    with pytest.raises(ValueError, match=r"run\.toml is not valid TOML: "):
        read_config(path)
    path.write_bytes(b"graph = '\xff'\n")
    with pytest.raises(ValueError, match=r"run\.toml is not valid TOML: "):
        read_config(path)
    path.write_text("n_latnt = 3\n")
    with pytest.raises(
        ValueError, match=r"Unknown hyper-parameter 'n_latnt'\. Did you mean 'n_latent'"
    ):
        read_config(path)
    path.write_text("n_latent = 3\n[graphsci]\nseed = 3\n")
    with pytest.raises(ValueError, match=r"run\.toml has a table, \[graphsci\]; .* no tables"):
        read_config(path)


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_is_not_there_is_told(tmp_path, name):
    message = re.escape(f"config (--config): there is no file {tmp_path / name}. Check the path.")
    with pytest.raises(FileNotFoundError, match=f"^{message}$"):
        read_config(tmp_path / name)
