"""The compiled sweep: chunks, memory, devices. A seed's row is its own, whoever trains beside it."""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.kernels import product
from jaxnet.sweep import Family, Plan, Program, default_budget, make_run, run_chunks
from tests.sweep import small

csr = pytest.mark.skipif("csr" not in small.PRODUCTS, reason="no csr kernel")
ROUNDING = 1e-5
"""How far parameters after 12 steps and scores may differ where only the order of sums does."""


@pytest.mark.slow
@csr
@pytest.mark.parametrize("chunk", [4, 1])
def test_chunks_do_not_matter_to_the_last_bit(chunk):
    """In one call, in calls of 4 (the last one incomplete), alone."""
    together = small.trained("csr", small.NUM_SEEDS, exact=True)
    small.assert_same(small.trained("csr", chunk, exact=True), together)


@pytest.mark.slow
def test_chunks_do_not_matter_with_the_dense_product():
    small.assert_close(small.trained("dense", 4), small.trained("dense", small.NUM_SEEDS), ROUNDING)


@csr
def test_kernels_agree():
    small.assert_close(
        small.trained("csr", small.NUM_SEEDS), small.trained("dense", small.NUM_SEEDS), ROUNDING
    )


def test_seeds_differ():
    everyone = small.trained("dense", small.NUM_SEEDS)
    for leaf in (everyone.structure.weights[0].cols, everyone.params.scaffold[0].weight):
        for other in range(2, small.NUM_SEEDS, 2):  # of the same architecture
            assert not np.array_equal(leaf[0], leaf[other])


@pytest.mark.slow
def test_chunks_come_in_order_and_from_where_they_are_asked():
    program = small.program("dense", 4)
    everything = (program, small.keys(), small.members())
    firsts = [(first, len(t.row.accuracy)) for first, t in run_chunks(*everything)]
    assert firsts == [(0, 4), (4, 2)]
    continued = dict(run_chunks(*everything, start=4))
    assert list(continued) == [4]
    rows = small.trained("dense", 4)
    np.testing.assert_array_equal(continued[4].row.loss, rows.row.loss[4:])
    assert list(run_chunks(*everything, start=small.NUM_SEEDS)) == []


def test_a_call_takes_no_more_seeds_than_a_chunk_holds():
    program = small.program("dense", 4)
    with pytest.raises(ValueError, match="1 to 4 seeds, not 5"):
        program(small.keys(5), small.members(5))
    with pytest.raises(ValueError, match="1 to 4 seeds, not 0"):
        program(small.keys()[:0], jax.tree.map(lambda leaf: leaf[:0], small.members()))


def compile_small(**changes: Any) -> Program:
    options = {"num_seeds": small.NUM_SEEDS, "chunk": small.NUM_SEEDS} | changes
    return Program(
        small.FAMILY,
        options.pop("config", small.config("dense")),
        options.pop("num_seeds"),
        small.splits(),
        key_data=jax.random.key(small.KEY_DATA),
        **options,
    )


class FakeMemory:
    """Programs that take ``shared + each * chunk`` bytes: what is compiled is only noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shared: int, each: int) -> None:
        self.compiled: list[int] = []

        def compile_nothing(_: Program, chunk: int, family: Family) -> int:
            self.compiled.append(chunk)
            return chunk

        monkeypatch.setattr(Program, "_compile", compile_nothing)
        monkeypatch.setattr("jaxnet.sweep.program.program_bytes", lambda chunk: shared + each * chunk)


def test_plan_is_the_largest_chunk_that_fits(monkeypatch):
    memory = FakeMemory(monkeypatch, shared=1000, each=10)
    program = compile_small(num_seeds=500, chunk=128, memory_budget=1375)
    assert program.plan == Plan(37, 14, 1370, 1375)
    assert program._program == 37  # what runs is what was planned
    assert len(memory.compiled) <= 4  # compiling takes seconds


def test_plan_takes_no_more_seeds_than_there_are(monkeypatch):
    memory = FakeMemory(monkeypatch, shared=1000, each=10)
    assert compile_small(num_seeds=5, chunk=128, memory_budget=10**6).plan == Plan(5, 1, 1050, 10**6)
    assert memory.compiled == [5]


@pytest.mark.parametrize(("budget", "chunk"), [(1010, 1), (1019, 1), (1020, 2)])
def test_plan_goes_down_to_one_seed(monkeypatch, budget, chunk):
    memory = FakeMemory(monkeypatch, shared=1000, each=10)
    program = compile_small(num_seeds=500, chunk=128, memory_budget=budget)
    assert program.plan.chunk == chunk == program._program
    assert len(memory.compiled) <= 4


def test_one_seed_that_does_not_fit_is_a_clear_error(monkeypatch):
    memory = FakeMemory(monkeypatch, shared=1000, each=10)
    with pytest.raises(ValueError, match="1 seed at once needs 1010 bytes, more than the budget of 1009: "):
        compile_small(num_seeds=500, chunk=128, memory_budget=1009)
    assert len(memory.compiled) == 2


@pytest.mark.parametrize("wrong", [{"num_seeds": 0}, {"chunk": 0}])
def test_there_must_be_a_seed(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        compile_small(**wrong)


@pytest.mark.slow
def test_measured_memory_grows_with_the_chunk_and_a_small_budget_shrinks_it(monkeypatch):
    programs = {chunk: small.program("dense", chunk) for chunk in (4, small.NUM_SEEDS)}
    few, many = (program.plan.bytes_per_call for program in programs.values())
    samples = sum(s.x.nbytes + s.y.nbytes for s in small.splits())
    assert samples < few < many  # the samples count, too
    compile_anew = Program._compile  # what is there already is not compiled once more

    def compile_once(self: Program, chunk: int, family: Family) -> Any:
        return programs[chunk]._program if chunk in programs else compile_anew(self, chunk, family)

    monkeypatch.setattr(Program, "_compile", compile_once)
    budget = (few + many) // 2
    program = compile_small(memory_budget=budget)
    plan = program.plan
    assert 2 <= plan.chunk < small.NUM_SEEDS and plan.chunks == -(-small.NUM_SEEDS // plan.chunk)
    assert plan.bytes_per_call <= budget == plan.budget
    small.assert_close(small.train_all(program), small.trained("dense", small.NUM_SEEDS), ROUNDING)


def test_default_budget_is_a_part_of_the_memory():
    plan = small.program("dense", 4).plan
    assert 2**20 < plan.budget < 2**50
    assert default_budget(jax.local_devices()) > 0


def test_plan_says_what_will_happen():
    assert str(Plan(128, 8, 3 * 2**20, 2**30)) == "8 calls of 128 seeds, 3 MiB each (budget 1024 MiB)"
    assert str(Plan(5, 1, 2**20, 2**30)) == "1 call of 5 seeds, 1 MiB each (budget 1024 MiB)"


EIGHT_DEVICES = """
import json
import jax
import jax.numpy as jnp
jax.config.update("jax_numpy_dtype_promotion", "strict")
from jaxnet.sharding import NetworkSharding
from jaxnet.sweep import Program
from tests import networks
from tests.sweep import small
assert len(jax.local_devices()) == 8
said = {}
for kernel in small.PRODUCTS:
    with networks.as_users_compile():
        program = Program(
            small.FAMILY, small.config(kernel), 10, small.splits(),
            key_data=jax.random.key(small.KEY_DATA), chunk=3,
        )
    one = program(small.keys(8), small.members(8))
    places = {shard.device.id for shard in one.params.scaffold[0].weight.addressable_shards}
    found = {name: leaf.tolist() for name, leaf in small.leaves(small.train_all(program, 10)).items()}
    text = program._program.as_text()
    talk = [word for word in ("all-gather", "all-reduce", "all-to-all", "permute") if f"{word}(" in text]
    said[kernel] = {"talk": talk, "chunk": program.plan.chunk, "places": len(places), "found": found}
few = Program(
    small.FAMILY, small.config("dense"), 3, small.splits(), key_data=jax.random.key(small.KEY_DATA)
)
used = [len(NetworkSharding.of(number).devices) for number in (1, 2, 6, 9, 11, 16, 24)]
sharding, each = NetworkSharding.of(12), (True, False)
rows, shared = jnp.arange(12.0), {"by": jnp.float32(3)}
args = sharding.place((rows, shared), each)
found = jax.jit(sharding.over(lambda row, shared: {"times": row * shared["by"]}, each))(*args)["times"]
assert len(found.addressable_shards) == 6 and found.addressable_shards[0].data.shape == (2,)
assert sharding.gather(found).devices() == {jax.local_devices()[0]} and (found == 3 * rows).all()
shapes = jax.eval_shape(lambda: (rows, shared))
assert jax.tree.map(lambda leaf: leaf.sharding, sharding.place(shapes, each)[0]) == args[0].sharding
print(json.dumps({"said": said, "few": [few.num_devices, few.plan.chunk], "used": used}))
"""


@pytest.mark.cpu
def test_eight_devices_give_the_rows_of_one(run_python):
    """A chunk of 3 becomes 8, one seed per device; the second call has 2 seeds for 8 devices."""
    done = run_python("-W", "error", "-c", EIGHT_DEVICES, devices=8)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["few"] == [3, 3], "no more devices than seeds"
    assert told["used"] == [1, 2, 6, 3, 1, 8, 8], "as many devices as divide the networks"
    for kernel, said in told["said"].items():
        assert said["chunk"] == 8 and said["places"] == 8
        assert not said["talk"], "a device has to do with its own seeds only"
        here = small.leaves(small.trained(kernel, small.NUM_SEEDS, exact=kernel == "csr"))
        assert here.keys() == said["found"].keys()
        for name, expected in here.items():
            found = np.asarray(said["found"][name], expected.dtype)
            assert len(found) == 10
            atol = 0 if kernel == "csr" else ROUNDING
            np.testing.assert_allclose(found[: small.NUM_SEEDS], expected, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("f32", "precision = [HIGHEST, HIGHEST]"),
        ("tf32", "tf32, accumulation_type = f32"),
        ("bf16", "xbf16>, "),
    ],
)
def test_the_program_lowers_for_cuda_without_a_gpu(precision, words):
    config = small.config("dense", product=product("dense", precision))
    run = jax.vmap(make_run(small.FAMILY, config), in_axes=(0, None, 0, None, None, None))

    def from_numbers(seeds, member, *splits):  # exported programs take no typed keys
        keys = jax.vmap(jax.random.key)(seeds)
        return run(keys, jax.random.key(small.KEY_DATA), member, *splits).row.accuracy

    exported = jax.export.export(jax.jit(from_numbers), platforms=["cuda"])(
        jnp.arange(4, dtype=jnp.uint32), small.members(4), *small.splits()
    )
    assert exported.platforms == ("cuda",)
    assert exported.out_avals[0].shape == (4,)
    dots = [line for line in exported.mlir_module().splitlines() if "stablehlo.dot_general" in line]
    assert len(dots) >= 5 and all(words in dot for dot in dots), "in training, validation and extrema"
    # the first layer of all seeds reads the one batch that they share
    units, samples = small.FAMILY.sizes[1], small.config("dense").batch_size
    shared = re.compile(rf"tensor<4x{units}x{small.FEATURES}x\w+>, tensor<{small.FEATURES}x{samples}x\w+>")
    assert any(shared.search(dot) and "batching_dims" not in dot for dot in dots)


def test_bf16_learns_as_f32_does():
    program = compile_small(config=small.config("dense", product=product("dense", "bf16")))
    found, expected = small.train_all(program), small.trained("dense", small.NUM_SEEDS)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found.params)} == {"float32"}
    small.assert_same(found.structure, expected.structure)
    weights = [np.concatenate([p.weight.ravel() for p in t.params.scaffold]) for t in (found, expected)]
    assert 0 < np.abs(weights[0] - weights[1]).max() < 0.1  # Adam moves a weight by 0.01 a step, 12 steps
    np.testing.assert_allclose(found.row.loss, expected.row.loss, rtol=0.02)
    assert abs(found.row.accuracy - expected.row.accuracy).mean() < 0.05


@csr
def test_the_csr_kernel_says_that_it_has_no_gpu():
    run = make_run(small.FAMILY, small.config("csr"))
    arguments = (small.keys()[0], small.keys()[0], small.network(small.members(), 0), *small.splits())
    with pytest.raises(ValueError, match="csr kernel runs on CPU only: choose the dense kernel"):
        jax.jit(run).trace(*arguments).lower(lowering_platforms=("cuda",))
