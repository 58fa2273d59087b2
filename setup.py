"""Adds the C extensions to what pyproject.toml says (cffi has no declarative form for it)."""

from setuptools import setup

setup(
    cffi_modules=["tools/build_native.py:kernels", "tools/build_native.py:sysio", "tools/build_native.py:load"],
    package_dir={"unimeter.invariants": "invariants", "unimeter.scenarios": "scenarios"},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
