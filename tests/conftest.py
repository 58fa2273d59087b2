"""The tests look into the node and change it while it runs: this process runs the sources. Programs that tests start run
what a user would run: the compiled modules, when they are built and up to date."""

from __future__ import annotations

from unimeter import compiled

compiled.interpret()
