"""``experiments.claims``: the committed page, verdicts by hand, pages that do not exist yet, wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments import _claim_answers as claims
from experiments.claims import Config, main
from jaxnet.lab import run_main
from jaxnet.statistics import aggregate

DOCS = Path(__file__).parents[2] / "docs"


def comparison(first: str, second: str, difference: float, half: float, verdict: str, **more: Any) -> Any:
    """As the numbers of a page have it."""
    found: dict[str, Any] = {"first": first, "second": second, "measure": "accuracy"}
    found |= {"title": f"{first} − {second}"}
    found |= {"difference": difference, "ci95": [difference - half, difference + half], "n": 16}
    return {**found, "verdict": verdict, "where": "", **more}


def page(folder: Path, name: str, experiment: str, arms: Any = (), comparisons: Any = ()) -> None:
    """Writes the numbers of a page."""
    found = {"experiment": experiment, "config": {}, "provenance": {}, "timing": {}}
    found |= {"arms": dict(arms), "comparisons": list(comparisons)}
    (folder / f"{name}.json").write_text(json.dumps(found))


def test_the_committed_page_is_what_the_command_writes(tmp_path: Path) -> None:
    written = tmp_path / "claims.md"
    main(Config(results=str(DOCS / "results"), doc=str(written)))
    assert written.read_text() == (DOCS / "claims.md").read_text(), "run python -m experiments.claims"


def test_without_any_page_nothing_is_said(tmp_path: Path) -> None:
    found = main(Config(results=str(tmp_path), doc=str(tmp_path / "claims.md")))
    assert len(found["rows"]) == 13 and {row["verdict"] for row in found["rows"]} == {"not tested yet"}
    text = (tmp_path / "claims.md").read_text()
    assert "python -m experiments.growth_or_hunt --dataset mnist" in text and "use instead" not in text
    assert "0 hold, 0 fail, 0 are unclear, and 13 are not tested yet" in text


def test_verdicts_by_hand() -> None:
    def said(difference: float, half: float, verdict: str) -> str:
        return claims.of_pair(comparison("a", "b", difference, half, verdict)).verdict

    assert said(0.01, 0.002, "better") == "holds"
    assert said(-0.01, 0.002, "worse") == "fails"
    assert said(0.001, 0.002, "no difference shown") == "fails"  # at most 0.3 points
    assert said(0.001, 0.02, "no difference shown") == "unclear"  # up to 2.1 points
    assert said(0.01, 0.002, "no verdict") == said(-0.01, 0.002, "no verdict") == "unclear"
    level = aggregate([0.96, 0.97, 0.98])  # 0.97 +- 0.0248
    assert [claims.of_level("", level, bar).verdict for bar in (0.94, 0.97, 1.0)] == [
        "holds",
        "unclear",
        "fails",
    ]
    shares = [claims.of_share("", [True] * k + [False] * (10 - k)) for k in (10, 6, 0)]
    assert [a.verdict for a in shares] == ["holds", "unclear", "fails"]
    assert [a.effect[:8] for a in shares] == ["10 of 10", "6 of 10 ", "0 of 10 "]
    answer = lambda v: claims.Answer("", "", "", v)  # noqa: E731
    cases = {("holds", "holds"): "holds", ("holds", "fails"): "fails", ("holds", "unclear"): "unclear"}
    for verdicts, whole in cases.items():
        assert claims.together([answer(v) for v in verdicts]) == whole


def test_pages_that_are_to_come(tmp_path: Path) -> None:
    """A fifth of a page each, as their experiments write them."""
    seeds = [
        {
            "seed": k,
            "diverged": False,
            "gain": 0.01 * (k % 16) + 0.0001 * (k % 7),
            "predictors": {
                "accuracy": 0.9 + 0.001 * (k % 7),
                "high 1": k % 16,
                "high 2": 1,
                "score × (1 − accuracy)": k % 16,
            },
        }
        for k in range(48)
    ]
    arm = {"seeds": seeds, "aggregate": {}}
    page(tmp_path, "patchability", "patchability", {"uniform: scaffolds": arm})
    cells = [
        comparison(f"{h} at {d}: growing, without RigL", f"{h} at {d}: static", x, 0.001, v)
        for h, d, x, v in ((1, 1, 0.01, "better"), (1, 2, -0.01, "worse"), (2, 1, 0.02, "better"))
    ]
    cells += [comparison("2 at 2: growing, without RigL", "2 at 2: static", 0.03, 0.001, "better")]
    page(tmp_path, "cifar10_growth", "cifar10_growth", (), cells)
    hunts = [
        comparison("grown", "hunt", 0.01, 0.001, "better"),
        comparison("grown", "hunt, halving", 0.01, 0.02, "no difference shown"),
    ]
    page(tmp_path, "growth_or_hunt", "growth_or_hunt", (), hunts)
    line = {"seeds": [], "aggregate": {"weights": aggregate([4695] * 3), "accuracy": aggregate([0.98] * 3)}}
    page(tmp_path, "headline", "headline", {"line c": line, "c, 0.01": line})
    rate = {
        name: {"seeds_per_second": {"median": middle, "min": middle - 1, "max": middle + 1}}
        for name, middle in (("f32", 1234.0), ("csr", 9e9))
    }
    config = {"repeats": 5, "epochs": 1}
    gpu = {"device": {"platform": "gpu", "kind": "a GPU"}, "config": config, "by_chunk": {"c8": rate}}
    (tmp_path / "gpu.json").write_text(json.dumps(gpu))
    found = main(Config(results=str(tmp_path), doc=str(tmp_path / "claims.md")))
    rows = {row["said"]: row for row in found["rows"] if row["answers"]}
    verdicts = {said.split()[0]: row["verdict"] for said, row in rows.items()}
    assert verdicts == {
        "Networks": "holds",  # the gain is proportional to the extrema
        "Patchability": "holds",
        "Growth": "fails",  # in one cell of four
        "One": "unclear",
        "50": "holds",
    }
    (cifar,) = rows["Growth beats static networks on CIFAR-10"]["answers"]
    assert cifar.effect == "better in 3, not better in 1, open in 0; -1.00 to +3.00 points"
    assert rows["50 to 100 seeds per second on a GPU"]["answers"][0].effect == FASTEST
    text = (tmp_path / "claims.md").read_text()
    assert "line c, 4,695 weights, 98.00 % (98.00 .. 98.00, n = 3)" in text and "c, 0.01" not in text


FASTEST = "1,234 (all rounds: 1,233 .. 1,235)"  # not the CPU's

WRONG = [
    ("missing", None, "does not exist"),
    ("damaged", "{", "not a JSON file"),
    ("no version", "[]", "another version, it has no 'experiment'"),
    ("another experiment", {"experiment": "growth"}, "it is of growth, not of indefinite_growth_controls"),
    ("another arm", {"experiment": "indefinite_growth_controls"}, "it has no arm 'lean to 95 %'"),
]


@pytest.mark.parametrize(("what", "content", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_input_is_one_line(
    what: str, content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, doc = tmp_path / "results", tmp_path / "claims.md"
    if content is not None:
        folder.mkdir()
        if isinstance(content, dict):
            content = json.dumps({"config": {}, "arms": {}, "comparisons": [], **content})
        (folder / "growth.json").write_text(content)
    with pytest.raises(SystemExit) as caught:
        run_main(main, Config, ["--results", str(folder), "--doc", str(doc)])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and len(error.splitlines()) == 1
    assert message in error and not doc.exists()


def test_a_page_without_a_measure_is_not_tested_yet(tmp_path: Path) -> None:
    shutil.copy(DOCS / "results" / "patched_density.json", tmp_path)
    numbers = json.loads((tmp_path / "patched_density.json").read_text())
    for arm in numbers["arms"].values():
        arm["aggregate"].pop("forgotten", None)
    (tmp_path / "patched_density.json").write_text(json.dumps(numbers))
    found = main(Config(results=str(tmp_path), doc=str(tmp_path / "claims.md")))
    (row,) = [row for row in found["rows"] if "forget" in row["said"]]
    assert row["verdict"] == "not tested yet" and "before `forgotten` was measured" in row["beside"]
