"""Builds the optional CPU kernel for sparse products; everything else is in pyproject.toml.

Without a C++ compiler, or without jaxlib's headers, the install goes on without
the kernel; ``python -m jaxnet.info`` then says so and jaxnet uses dense products.
"""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

FOLDER = "jaxnet/kernels/cpp"
SOURCES = ("csr", "csr_runtime", "csr_baseline", "csr_avx2", "csr_avx512")
HEADERS = (
    "csr_call",
    "csr_images",
    "csr_job",
    "csr_jobs",
    "csr_kernels",
    "csr_runtime",
    "csr_select",
    "csr_vector.inc",
)
COMMON = ["-std=c++17", "-O3", "-g0", "-ffp-contract=fast", "-fvisibility=hidden"]
# The instruction set is chosen when the library is loaded: only these files may use
# more than every machine of the architecture has.
PER_FILE = {"csr_avx2.cc": ["-mavx2", "-mfma"], "csr_avx512.cc": ["-mavx512f", "-mavx2", "-mfma"]}


class BuildKernels(build_ext):
    """Compiles each file with the flags of its instruction set."""

    def build_extension(self, ext: Extension) -> None:
        """Sets the flags and the include folder, then builds as usual."""
        # Here and not above, so that a missing jaxlib only costs the optional extension.
        try:
            import jaxlib
        except ImportError as error:
            raise CompileError(f"jaxlib has the headers and is not there: {error}") from error
        # One left by another version of Python would be found first.
        built = Path(self.get_ext_fullpath(ext.name))
        for old in built.parent.glob("_csr.*.so"):
            if old.name != built.name:
                old.unlink()
        # As system headers, so that they are not our warnings.
        ext.extra_compile_args += ["-isystem", f"{jaxlib.__path__[0]}/include"]
        # On macOS one call may compile for two architectures: keep to what every machine has.
        x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.platform == "linux"
        compile_one = self.compiler._compile

        def compile_with_flags(
            obj: str, src: str, ext: str, cc_args: list[str], extra: list[str], pp_opts: list[str]
        ) -> None:
            name = src.replace("\\", "/").rsplit("/", 1)[-1]
            return compile_one(
                obj, src, ext, cc_args, extra + (PER_FILE.get(name, []) if x86 else []), pp_opts
            )

        self.compiler._compile = compile_with_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one


setup(
    ext_modules=[
        Extension(
            "jaxnet.kernels._csr",
            sources=[f"{FOLDER}/{name}.cc" for name in SOURCES],
            depends=[f"{FOLDER}/{name}.h" for name in HEADERS],
            extra_compile_args=COMMON,
            language="c++",
            optional=True,
            py_limited_api=True,  # loaded by ctypes, it knows nothing of Python: one file for all versions
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
