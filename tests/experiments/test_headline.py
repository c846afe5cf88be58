"""``experiments.headline`` on digits: what counts and is written, kills, presets, wrong input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments import _headline_lines as table
from experiments import cifar10_mlp, headline, method_comparison, seed_hunt
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import run_main
from jaxnet.lab.command import parse
from jaxnet.portable import load_portable
from tests.experiments.patched import compiling_once, read_json

FULL = 64 * 256 + 256 * 128 + 128 * 10
SMALL = [
    *("--dataset", "digits", "--lines", "b,c-plain", "--num-seeds", "2", "--epochs", "4", "--every", "5"),
    *("--batch-size", "64", "--teachers", "1", "--teacher-hidden", "8", "--teacher-epochs", "2"),
    *("--ablation-seeds", "0", "--curve", "", "--kernel", "dense"),
]


def command(cache: Path, out: Path, *flags: str) -> None:
    """Runs it in this process."""
    with compiling_once(cache):
        run_main(headline.CONTROLS.main, headline.Config, [*SMALL, *flags, "--out", str(out)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """Two lines, a document, the networks."""
    out = tmp_path_factory.mktemp("headline") / "run"
    command(xla_cache, out, "--doc", str(out.parent / "h.md"), "--export", str(out.parent / "networks"))
    return out


def test_the_lines_have_the_weights_that_they_may_have(finished: Path) -> None:
    found = {line["name"]: line for line in read_json(finished / "summary.json")["lines"]}
    assert list(found) == ["b", "c'"]
    weights = int(0.02 * FULL)
    assert [line["final_nonzeros"] for line in found.values()] == [weights] * 2
    assert [line["max_nonzeros"] for line in found.values()] == [weights, FULL]
    assert [line["counted"] for line in found.values()] == ["at every step", "at the end"]
    b, plain = found.values()
    assert b["augmentation"] == ["jitter"] and b["distillation"] == 1
    assert plain["augmentation"] == [] and plain["distillation"] == 0
    for line in found.values():
        assert line["sizes"] == [64, 256, 128, 10] and line["epochs"] == 4 and line["seconds"] > 0
        assert set(line["test_accuracy"]) == {"mean", "std", "ci95", "n"} and line["test_accuracy"]["n"] == 2
    assert read_json(finished / "summary.json")["teachers"]["sizes"] == [64, 8, 10]


def test_the_networks_are_written_and_are_what_was_judged(finished: Path) -> None:
    for name, line in (("b", "line-b"), ("c-plain", "line-c-plain")):
        network = load_portable(finished.parent / "networks" / f"digits-{name}.npz")
        (arm,) = read_json(finished / line / "summary.json")["arms"].values()
        best = max(arm["seeds"], key=lambda seed: seed["watched"])  # on validation samples
        assert network.nonzeros == int(0.02 * FULL)
        assert network.facts["test_accuracy"] == best["accuracy"] and network.facts["seed"] == best["seed"]


def test_the_document(finished: Path) -> None:
    page = (finished.parent / "h.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| b |", "| c' |"))]
    assert len(rows) == 4 and "| 1,008 | 1,008 | yes | yes |" in rows[0]
    assert "| 1,008 | 50,432 | no | no |" in rows[1] and "Against the literature" not in page
    numbers = read_json(finished.parent / "h.json")
    assert list(numbers["arms"]) == ["line b", "line c'"]  # what experiments.claims reads
    assert (finished.parent / "h.png").exists()


@pytest.mark.slow
def test_a_run_continued_is_as_one_that_was_not_stopped(
    finished: Path, tmp_path: Path, xla_cache: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    for name in ("summary.json", "line-b/summary.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "line-c-plain")
    last = sorted((copy / "line-b" / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)[-1]
    shutil.rmtree(last)  # goes on from the one before
    command(xla_cache, copy, "--resume")
    for name in ("line-b", "line-c-plain"):
        first, second = (read_json(out / name / "summary.json")["arms"] for out in (finished, copy))
        assert first == second


def test_the_curve_has_neither_and_ablations_take_one_ingredient_out_each() -> None:
    config = headline.Config(dataset="digits", every=5, batch_size=64, lines=("b", "c", "c-plain"))
    dataset = lab.run.load(headline.ArmConfig(dataset="digits"))
    every = headline.plan(config, dataset)
    curve = [one.arm for one in every if one.group == "curve"]
    shares = [arm.density or 0 for arm in curve]
    assert shares == pytest.approx(config.curve, abs=1e-4) and not any(a.augment or a.taught for a in curve)
    planned = [one for one in every if one.group == "ablations"]
    for line in ("b", "c"):
        runs = {one.name.split(": ")[1]: one.arm for one in planned if one.line.name == line}
        whole = runs.pop("whole")
        assert len(runs) >= 8 and not whole.judged and whole.seed == config.num_seeds  # seeds of no line
        for name, arm in runs.items():
            other = {"out", *(["augment", "taught"] if name == "without either" else [])}
            changed = [f for f in vars(arm) if getattr(arm, f) != getattr(whole, f) and f not in other]
            assert len(changed) == (0 if name == "without either" else 1), (name, changed)


def test_numbers_of_weights_on_mnist() -> None:
    sizes = {name: line.sizes(784, 10) for name, line in table.LINES.items()}
    weights = [line.weights(sizes[name]) for name, line in table.LINES.items()]
    assert weights == [7042, 4695, 4695, 4695, 3060, 2662, 5324, 13310]
    known = [table.best_published(n) for n in (2662, 3060, 4695, 5324, 13310)]
    assert [p.accuracy for p in known if p] == [97.64, 97.87, 98.08, 98.21, 98.47]
    assert table.best_published(2000) is None


def test_what_is_given_wins_over_a_preset_even_where_it_is_the_default() -> None:
    flags = parse(method_comparison.Config, ["--preset", "headline", "--epochs", "20", "--num-seeds", "3"])
    assert (flags.epochs, flags.num_seeds, flags.taught, flags.average) == (20, 3, 2, 0.999)
    assert flags.methods == ("static", "sparse-momentum-correlated", "lamp") and flags.augment == ("jitter",)
    hunt = parse(seed_hunt.Config, ["--preset", "headline", "--densities", "0.01"])
    assert (hunt.densities, hunt.method, hunt.allocation) == ((0.01,), "rigl", "erdos-renyi")
    assert hunt.sizes == (784, 256, 128, 10) and hunt.dataset == "mnist"
    plain = parse(seed_hunt.Config, [])
    assert plain == seed_hunt.Config() and plain.preset is None
    with pytest.raises(InputError, match="no meaning here"):
        cifar10_mlp.Config(preset="headline")


WRONG = [
    (["--lines", "f"], "unknown line 'f'"),
    (["--lines", ""], "names no line"),
    (["--weights", "393"], "393 weights are fewer than the 394 units of 64-256-128-10 need"),
    (["--weights", "60000"], "has 50432 weights, not 60000"),
    (["--num-seeds", "0"], "--num-seeds must be"),
    (["--teacher-hidden", "0"], "--teacher-hidden must be"),
    (["--curve", "2"], "--curve must be"),
    (["--export", "/nowhere/at/all"], "--export: the folder /nowhere/at does not exist"),
    (["--epochs", "1"], "left before the last epoch"),
    (["--dataset", "cliff"], "flat features"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given: Any = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | dict(
        zip(flags[::2], flags[1::2], strict=True)
    )
    argv = [part for pair in given.items() for part in pair]
    with pytest.raises(SystemExit) as caught:
        run_main(headline.CONTROLS.main, headline.Config, [*argv, "--out", str(out)])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and len(error.splitlines()) == 1
    assert message in error, error
    assert not out.exists()


def test_a_folder_of_another_version_is_refused(finished: Path, xla_cache: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        command(xla_cache, finished, "--resume", "--weights", "900")
    error = capsys.readouterr().err
    assert caught.value.code == 2 and len(error.splitlines()) == 1, error
