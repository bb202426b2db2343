"""Builds evtape.core.native. The metadata is in pyproject.toml; only what is decided at build time is here.

EVTAPE_PURE=1            build no extension: the package runs on the pure core.
EVTAPE_REQUIRE_NATIVE=1  an extension that does not compile is an error (so is CIBUILDWHEEL=1). Unset, it is a warning.
EVTAPE_SANITIZE=LIST     also pass -fsanitize=LIST, for example `address,undefined` or `thread` (gcc, clang).
EVTAPE_DEBUG=1           keep the symbols and the debug information, which are stripped otherwise (gcc, clang).
CFLAGS                   further flags of the compiler, as setuptools takes them.
"""

import os
import re
import sys
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The native core reserves address space and computes with 64-bit sizes, so a 32-bit Python runs the pure core.
NARROW = sys.maxsize < 2**32
PURE = os.environ.get("EVTAPE_PURE") == "1" or NARROW
REQUIRED = "1" in (os.environ.get("EVTAPE_REQUIRE_NATIVE"), os.environ.get("CIBUILDWHEEL"))
SANITIZE = os.environ.get("EVTAPE_SANITIZE", "")
DEBUG = os.environ.get("EVTAPE_DEBUG") == "1"

# The core checks every bound itself, once; what Cython would check again per access is off.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",  # gives inspect.signature, help() and stubtest something to read
    "autotestdict": False,  # no __test__ that the stub would have to name
    "freethreading_compatible": True,
}


# The one place of the version is the package, which needs it from a source tree as well.
VERSION = re.search(r'\n__version__ = "(.+)"\n', Path("src/evtape/__init__.py").read_text(encoding="utf-8"))[1]


def long_description() -> str:
    """README.md for a package index, where links into the tree have to name the repository: those of this version."""
    home = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]
    raw = home.replace("//github.com/", "//raw.githubusercontent.com/")
    return re.sub(
        r"\]\((?!https?:|#)([^)\s]+)\)",
        lambda link: f"]({raw if link[1].endswith('.svg') else f'{home}/blob'}/v{VERSION}/{link[1]})",
        Path("README.md").read_text(encoding="utf-8"),
    )


class BuildExt(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # flags, environment and Cython's version are not among the things whose dates are compared

    def build_extension(self, ext: Extension) -> None:
        built = Path(self.get_ext_fullpath(ext.name))
        built.unlink(missing_ok=True)  # when this build fails, an older one must not be packed in its place
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args = ["/O2", "/std:c11", "/experimental:c11atomics"]
        else:
            # Hidden, so that no crc32 of another library in the process takes the place of ours.
            ext.extra_compile_args = ["-O3", "-std=c11", "-pthread", "-fvisibility=hidden"]
            ext.extra_link_args = ["-pthread"]
            if SANITIZE:
                ext.extra_compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1", "-g"]
                ext.extra_link_args += [f"-fsanitize={SANITIZE}"]
            elif DEBUG:
                ext.extra_compile_args.append("-g")
            else:
                # Most interpreters were built with -g and pass it on; the debug information is three times the code.
                ext.extra_compile_args.append("-g0")
                if sys.platform != "darwin":  # its linker leaves the debug information in the object files
                    ext.extra_link_args.append("-Wl,-s")
        super().build_extension(ext)

    def run(self) -> None:
        super().run()
        if any(not Path(self.build_lib, self.get_ext_filename(ext.name)).exists() for ext in self.extensions):
            self.warn(
                "evtape.core.native did not compile: evtape will run on its slower pure-Python core (backend 'python')"
            )


if NARROW and REQUIRED:
    sys.exit("evtape: the native core needs a 64-bit Python; unset EVTAPE_REQUIRE_NATIVE to install the pure core")

core = Extension(
    "evtape.core.native",
    ["ext/native.pyx", *(p.as_posix() for p in sorted(Path("ext").glob("*.c")) if p.name != "native.c")],
    depends=[p.as_posix() for p in sorted([*Path("ext").glob("*.h"), *Path("ext").glob("*.pxd")])],
    include_dirs=["ext"],
    optional=not REQUIRED,
)
core.cython_directives = DIRECTIVES
core.cython_c_in_temp = True  # below build/, never beside the sources

setup(
    version=VERSION,
    long_description=long_description(),
    long_description_content_type="text/markdown",
    ext_modules=[] if PURE else [core],
    cmdclass={"build_ext": BuildExt},
)
