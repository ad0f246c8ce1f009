"""What nanoGPT's checkpoints say of their training, in our words."""

from typing import Any

from convert.extras.recipe import read

# Those of nanoGPT's config/train_shakespeare_char.py, and of train.py, that say how it trains.
NANOGPT: dict[str, Any] = {
    "learning_rate": 1e-3, "max_iters": 5000, "warmup_iters": 100, "lr_decay_iters": 5000, "min_lr": 1e-4,
    "decay_lr": True, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "grad_clip": 1.0, "batch_size": 64,
    "gradient_accumulation_steps": 2, "dropout": 0.2, "out_dir": "out", "compile": True,
}  # fmt: skip
ALIKE = {
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-4,
    "warmup_steps": 100,
    "beta1": 0.9,
    "beta2": 0.99,
}


def test_all_that_has_a_word_here() -> None:
    found = read({"config": NANOGPT}, {"learning_rate": 5e-4, "eps": 1e-8, "decay": "matrices"})
    assert found.settings == {
        "optim": {**ALIKE, "weight_decay": 0.1, "clip_norm": 1.0, "eps": 1e-8, "decay": "matrices"},
        "train": {"steps": 5000, "batch_size": 128, "accumulate": 2},
    }
    assert not found.left


def test_a_constant_rate_has_no_warm_up() -> None:
    words = {
        **NANOGPT,
        "decay_lr": False,
        "learning_rate": 3e-5,
        "min_lr": 6e-5,
        "warmup_iters": 2000,
    }
    found = read({"config": words}, {})
    assert found.settings["optim"]["schedule"] == "constant"
    assert found.settings["optim"]["warmup_steps"] == 0
    assert "final_learning_rate" not in found.settings["optim"]
    assert not found.left


def test_what_cannot_be_taken_is_said() -> None:
    words = {
        **NANOGPT,
        "max_iters": 50,
        "min_lr": "low",
        "beta1": 2.0,
        "batch_size": 0,
        "grad_clip": True,
    }
    found = read({"config": words}, {})
    assert found.left.keys() == {
        "warmup_iters",
        "min_lr",
        "beta1",
        "batch_size",
        "grad_clip",
        "lr_decay_iters",
    }
    assert found.left["warmup_iters"].startswith(
        "optim.warmup_steps 100 must be fewer than steps 50"
    )
    assert found.left["lr_decay_iters"] == "it is 5000; schedules here end with train.steps, 50"
    assert found.settings == {
        "optim": {"learning_rate": 1e-3, "beta2": 0.99, "weight_decay": 0.1},
        "train": {"steps": 50},
    }


def test_a_file_without_a_recipe_has_that_of_its_optimizer() -> None:
    assert read({"config": "small"}, {"eps": 1e-6}).settings == {"optim": {"eps": 1e-6}}
    assert read({}, {}).settings == {}


def test_a_word_that_is_no_number_is_left_out() -> None:
    recipe = read({"config": {"max_iters": [[1], [2]], "lr_decay_iters": {}, "beta2": None}}, {})
    assert recipe.left == {"max_iters": "it is a list", "beta2": "it is a NoneType"}
    assert recipe.settings == {}
